"""What an assessment learns, and what it searches: one table each, to which a further entry is all that a way to learn
or a rule takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eexit.method.rules import ONLINE, shown
from eexit.method.screen_size import ScreenSize
from eexit.method.states import STATES, alters
from eexit.plan.artefacts import GATE, PROBE, READOUT, STATE_MAPS
from eexit.plan.config import HEAD
from eexit.plan.configuration import EVERY

UNALTERED: Final = next(name for name, state in STATES.items() if not alters(state))  # the state of replays
FROZEN, MAPPED = "frozen_residual", "mapped_residual"
DEPLOYED: Final = (FROZEN, MAPPED)  # the states of what is run: in `unfrozen`, skipped layers are run in the end
ORACLE: Final = "agree"
LENS: Final = "lens"
# Coarse, since a rule needs no exact likeliest token: of the default model, nearly as many tokens leave at equal
# disagreement as by one of 96 dimensions and 1,024 tokens, which costs nearly three times as much.
SCREEN: Final = ScreenSize(32, 256)

Rules = Mapping[str, tuple[float, ...]]

RULES: Final[Rules] = {  # searched with every readout, and every exit set
    "confidence": (0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999),
    "entropy": (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.005),
    "similarity": (0.97, 0.98, 0.985, 0.99, 0.995),
}


@dataclass(frozen=True)
class Learned:
    """What `jobs/train.py --what` makes for a role of a sweep. `rules` are searched with it alone, with all layers."""

    what: str
    role: str
    rules: Rules = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the training
    for_reads: bool = False  # whether it is of use only where a read of the head costs more than a layer


READING: Final = [f"{rule}/{shown(each)}" for rule, values in RULES.items() if ONLINE[rule].reads for each in values]
GATE_THRESHOLDS: Final = ("0.05", "0.2")
LEARNED: Final[Sequence[Learned]] = (  # each is trained through the readout, if that comes before it
    Learned("linear", READOUT),
    Learned("state", STATE_MAPS),
    Learned("probe", PROBE, {"predicted_kl": (1.0, 2.0, 4.0, 8.0)}),
    Learned("gate", GATE, options={"rules": tuple(READING)}, for_reads=True),
)


@dataclass(frozen=True)
class Way:
    """How layers are read, and what rules decide on: fields of a sweep's configuration."""

    readout: str = LENS  # or a folder
    decide_on: str = HEAD
    probe: str | None = None
    gate: str | None = None
    gate_threshold: str | None = None  # None: the gate is not used
    state: str | None = None

    @property
    def mode(self) -> str:
        """What exits leave behind in it."""
        return MAPPED if self.state else FROZEN

    def fields(self, rules: Rules) -> dict[str, Any]:
        """The fields of a sweep's configuration by which these rules use what was learned."""
        probing = self.probe is not None and any(ONLINE[name].probes for name in rules if name in ONLINE)
        gated = self.gate_threshold is not None and any(ONLINE[name].reads for name in rules if name in ONLINE)
        return {
            "readout": self.readout,
            "decide_on": self.decide_on,
            **({"state": self.state} if self.state else {}),
            **({"probe": self.probe} if probing else {}),
            **({"gate": self.gate, "gate_thresholds": (float(self.gate_threshold or 0),)} if gated else {}),
        }


def searched_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Exitable layers, and one between the last two: which late layer tokens may leave at decides what is saved.

    Of the default model, exits at layer 23 alone save more than half as much again within 1 % disagreement as at 25.
    """
    between = [(layers[-2] + layers[-1] + 1) // 2] if len(layers) > 1 else []
    return tuple(sorted({*layers, *between}))


def exit_sets(layers: Sequence[int]) -> tuple[str, ...]:
    """All exitable layers, each of the last three alone, and the last two: looking at fewer layers costs less."""
    few = [*((layer,) for layer in reversed(layers[-3:])), layers[-2:]]
    return (*(",".join(map(str, each)) for each in few if len(each) < len(layers)), EVERY)
