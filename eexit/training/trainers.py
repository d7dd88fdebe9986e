"""The trainers by kind of artefact; each makes a `Trainer` from a `Setup`."""

from collections.abc import Callable
from typing import Final

from eexit.training.linear import LinearTrainer
from eexit.training.loop import Trainer
from eexit.training.probes.gate import GateTrainer
from eexit.training.probes.probe import ProbeTrainer
from eexit.training.setup import Setup
from eexit.training.states.state import StateTrainer

TRAINERS: Final[dict[str, Callable[[Setup], Trainer]]] = {
    "linear": LinearTrainer,
    "probe": ProbeTrainer,
    "gate": GateTrainer,
    "state": StateTrainer,
}
