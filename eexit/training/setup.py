"""What a training is made from: options that decide its result, the model, and the texts.

This module does not import torch, so that the command line can check options without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from eexit.plan.artefacts import ADAPTER, GATE, PROBE, READOUT, STATE_MAPS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from eexit.method.readouts import Readout
    from eexit.model.decoder import Decoder
    from eexit.training.texts import Text

KL_FACTORS: Final = (0.5, 1.0, 2.0, 4.0)  # of a card's tables
ALL_HAVE: Final = ("what", "layers", "seed")  # options
_OF_STEPS: Final = ("passes", "tokens_per_step", "learning_rate")
_LIMITS: Final = ("most_tokens", "most_minutes")
STATE_FORMS: Final = ("streams", "keys")  # of state maps, as `eexit.method.state_maps` names them
AUTO: Final = "auto"  # the better one
_OF_STUDENTS: Final = (
    "loss",
    "readout",
    "kl_factor",
    "in_state",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "lora_layers",
    "full",
)
OF_LORA: Final = ("lora_r", "lora_alpha", "lora_targets")  # that `full` has no use for
LAYERS_LOSS, EXITS_LOSS = "layers", "exits"  # what a student learns from
LOSSES: Final[Mapping[str, Mapping[str, Any]]] = {  # options that suit a loss if no others are given
    LAYERS_LOSS: {
        "in_state": 0.25, "lora_r": 32, "lora_alpha": 32, "lora_targets": ("all-linear",), "learning_rate": 5e-4,
    },
    EXITS_LOSS: {"lora_r": 8, "lora_alpha": 16, "learning_rate": 1e-3},
}  # fmt: skip


@dataclass(frozen=True)
class WayToTrain:
    """What is written, the options that it takes besides `ALL_HAVE`, those that suit it if no others are given, and
    those that it finds itself then.
    """

    holds: tuple[str, ...]  # roles of the artefact
    has: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    finds: tuple[str, ...] = ()


WAYS: Final[Mapping[str, WayToTrain]] = {  # by what is trained
    "linear": WayToTrain((READOUT,)),
    "tuned": WayToTrain(
        (READOUT,), (*_OF_STEPS, *_LIMITS), {"passes": 2, "tokens_per_step": 256, "learning_rate": 1e-2}
    ),
    "probe": WayToTrain(
        (PROBE,), ("readout", *_OF_STEPS), {"passes": 6, "tokens_per_step": 256, "learning_rate": 1e-3}
    ),
    "gate": WayToTrain((GATE,), ("readout", "rules")),
    "student": WayToTrain(
        (ADAPTER, PROBE),
        (*_OF_STEPS, *_LIMITS, "until", *_OF_STUDENTS),
        {"loss": LAYERS_LOSS, "tokens_per_step": 512, "most_tokens": 100_000, "most_minutes": 30.0},
    ),
    "state": WayToTrain((STATE_MAPS,), ("readout", "form", "rank", "rounds"), {"rounds": 1}, finds=("form",)),
}


@dataclass(frozen=True)
class TrainingOptions:
    """Everything but model and texts that the result of a training depends on. None: what suits `what`."""

    what: str
    layers: tuple[int, ...]  # exitable ones
    readout: str = "lens"  # what layers are read through: a name, or a learned readout's digest
    rules: tuple[str, ...] = ()  # that a gate is for, such as "confidence/0.97"
    seed: int = 0
    passes: int | None = None  # over the texts to learn from them; some trainings need one more before
    tokens_per_step: int | None = None  # that a step of the optimiser learns from
    learning_rate: float | None = None
    most_tokens: int | None = None  # to learn from; passes over the same texts count again
    most_minutes: float | None = None
    until: float | None = None  # points of agreement: training ends where twice the tokens gain fewer
    loss: str | None = None  # of a student: one of LOSSES
    kl_factor: float = 1.0  # of the distribution that a student's exits are drawn from
    in_state: float | None = None  # share of the steps that learn at drawn exits, from what they leave behind
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_targets: tuple[str, ...] | None = None  # modules; None: the projections of attention
    lora_layers: int | None = None  # the first so many layers are adapted; None: all
    full: bool | None = None  # all weights of these layers learn, instead of a low-rank change of some
    form: str | None = None  # of state maps: one of STATE_FORMS; None: the better one
    rank: int | None = None  # of state maps; None: as large as they are
    rounds: int | None = None  # of fitting state maps; all but the first are to runs with those of the round before

    def with_defaults(self) -> TrainingOptions:
        """These options, with what suits `what`, and a student's loss, for those that are None."""
        defaults = dict(WAYS[self.what].defaults)
        if "loss" in defaults:
            suits = LOSSES[self.loss or defaults["loss"]]
            defaults |= {name: value for name, value in suits.items() if not (self.full and name in OF_LORA)}
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def as_dict(self) -> dict[str, Any]:
        """The options that this way to train has and that are not None, as JSON has them."""
        options = {name: getattr(self, name) for name in (*ALL_HAVE, *WAYS[self.what].has)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
            if value is not None
        }


def rule_and_parameter(key: str) -> tuple[str, float]:
    """Of a text such as "confidence/0.97"."""
    rule, _, parameter = key.partition("/")
    return rule, float(parameter)


@dataclass(frozen=True)
class Setup:
    """What a trainer is made from. `texts` are all that it learns from, without the held-out ones."""

    model: PreTrainedModel
    decoder: Decoder
    options: TrainingOptions
    readout: Readout  # what layers are read through
    texts: Sequence[Text]
