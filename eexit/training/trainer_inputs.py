"""The options, the model and the texts that a trainer is made from.

This module does not import torch: the command line checks options with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eexit.method.custom_manifest import descriptions_of
from eexit.plan.artefacts import GATE, KV_MAPS, PROBE, READOUT

if TYPE_CHECKING:
    from eexit.method.readouts import Readout
    from eexit.model.layers import Decoder
    from eexit.training.texts import TrainingText

KL_FACTORS: Final = (0.5, 1.0, 2.0, 4.0)  # at which probes are calibrated and measured


@dataclass(frozen=True)
class TrainerSpec:
    """Role of a kind of artefact, and the options that its training takes besides layers and an adapter."""

    role: str
    takes: tuple[str, ...] = ()


WAYS: Final[Mapping[str, TrainerSpec]] = {  # by kind of artefact
    "linear": TrainerSpec(READOUT),
    "probe": TrainerSpec(PROBE, ("readout",)),
    "gate": TrainerSpec(GATE, ("readout", "rules")),
    "kv-maps": TrainerSpec(KV_MAPS, ("readout",)),
}


@dataclass(frozen=True)
class TrainingOptions:
    """All that determines the result of a training besides model and texts."""

    what: str
    layers: tuple[int, ...]  # exitable layers
    readout: str = "lens"  # its name, or a trained readout's digest
    rules: tuple[str, ...] = ()  # of a gate, such as "confidence/0.97"
    adapter: str | None = None  # the digest of the student's adapter

    def as_dict(self) -> dict[str, Any]:
        """Return the options that apply to this kind of training, as in JSON."""
        options = {name: getattr(self, name) for name in ("what", "layers", "adapter", *WAYS[self.what].takes)}
        own = descriptions_of({name for name, _ in map(rule_and_parameter, self.rules)})
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**options, "own": own or None}.items()
            if value is not None
        }


def rule_and_parameter(key: str) -> tuple[str, float]:
    """Split a key such as "confidence/0.97"."""
    rule, _, parameter = key.partition("/")
    return rule, float(parameter)


@dataclass(frozen=True)
class TrainerInputs:
    """Arguments of a trainer; `texts` has the training and validation texts, without held-out ones."""

    decoder: Decoder
    options: TrainingOptions
    readout: Readout
    texts: Sequence[TrainingText]
