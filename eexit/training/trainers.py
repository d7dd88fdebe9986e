"""The ways to train: each is a `Trainer`, made from a `Setup`."""

from collections.abc import Callable
from typing import Final

from eexit.training.probes.gate import GateTrainer
from eexit.training.probes.probe import ProbeTrainer
from eexit.training.readouts.linear import LinearTrainer
from eexit.training.readouts.tuned import TunedTrainer
from eexit.training.setup import Setup
from eexit.training.states.state import StateTrainer
from eexit.training.trainer import Trainer


def _student(setup: Setup) -> Trainer:
    from eexit.training.student.student import StudentTrainer  # here, since peft takes a second to import

    return StudentTrainer(setup)


TRAINERS: Final[dict[str, Callable[[Setup], Trainer]]] = {
    "linear": LinearTrainer,
    "tuned": TunedTrainer,
    "probe": ProbeTrainer,
    "gate": GateTrainer,
    "state": StateTrainer,
    "student": _student,
}
