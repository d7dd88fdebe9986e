"""What a training is made from: options that decide its result, the model, and the texts.

This module does not import torch, so that the command line can check options without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eexit.method.descriptions import descriptions_of
from eexit.plan.artefacts import GATE, PROBE, READOUT, STATE_MAPS

if TYPE_CHECKING:
    from eexit.method.readouts import Readout
    from eexit.model.layers import Decoder
    from eexit.training.texts import Text

KL_FACTORS: Final = (0.5, 1.0, 2.0, 4.0)  # that probes are calibrated for and measured at


@dataclass(frozen=True)
class WayToTrain:
    """The role of what is trained, and the options that it takes besides layers and an adapter."""

    role: str
    takes: tuple[str, ...] = ()


WAYS: Final[Mapping[str, WayToTrain]] = {  # by what is trained
    "linear": WayToTrain(READOUT),
    "probe": WayToTrain(PROBE, ("readout",)),
    "gate": WayToTrain(GATE, ("readout", "rules")),
    "state": WayToTrain(STATE_MAPS, ("readout",)),
}


@dataclass(frozen=True)
class TrainingOptions:
    """Everything but model and texts that the result of a training depends on."""

    what: str
    layers: tuple[int, ...]  # exitable ones
    readout: str = "lens"  # what layers are read through: a name, or a learned readout's digest
    rules: tuple[str, ...] = ()  # that a gate is for, such as "confidence/0.97"
    adapter: str | None = None  # the digest of the adapter that makes a student of the model

    def as_dict(self) -> dict[str, Any]:
        """The options that this way to train has, as JSON has them."""
        options = {name: getattr(self, name) for name in ("what", "layers", "adapter", *WAYS[self.what].takes)}
        own = descriptions_of({name for name, _ in map(rule_and_parameter, self.rules)})
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**options, "own": own or None}.items()
            if value is not None
        }


def rule_and_parameter(key: str) -> tuple[str, float]:
    """Of a text such as "confidence/0.97"."""
    rule, _, parameter = key.partition("/")
    return rule, float(parameter)


@dataclass(frozen=True)
class Setup:
    """What a trainer is made from. `texts` are all that it learns from, without the held-out ones."""

    decoder: Decoder
    options: TrainingOptions
    readout: Readout  # what layers are read through
    texts: Sequence[Text]
