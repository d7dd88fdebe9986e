"""The ways to train: each is a `Trainer`, made from a `Setup`."""

from collections.abc import Callable
from typing import Final

from eexit.training.setup import Setup
from eexit.training.trainer import Trainer


def _linear(setup: Setup) -> Trainer:
    from eexit.training.readouts.linear import LinearTrainer

    return LinearTrainer(setup)


def _tuned(setup: Setup) -> Trainer:
    from eexit.training.readouts.tuned import TunedTrainer

    return TunedTrainer(setup)


def _probe(setup: Setup) -> Trainer:
    from eexit.training.probes.probe import ProbeTrainer

    return ProbeTrainer(setup)


def _gate(setup: Setup) -> Trainer:
    from eexit.training.probes.gate import GateTrainer

    return GateTrainer(setup)


def _student(setup: Setup) -> Trainer:
    from eexit.training.student.student import StudentTrainer

    return StudentTrainer(setup)


# Each brings its own libraries, which the others need not have.
TRAINERS: Final[dict[str, Callable[[Setup], Trainer]]] = {
    "linear": _linear,
    "tuned": _tuned,
    "probe": _probe,
    "gate": _gate,
    "student": _student,
}
