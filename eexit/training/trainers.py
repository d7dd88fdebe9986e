"""The trainers by kind of artefact; each makes a `Trainer` from a `TrainerInputs`."""

from collections.abc import Callable
from typing import Final

from eexit.training.kv_maps.kv_map_trainer import KVMapTrainer
from eexit.training.linear import LinearTrainer
from eexit.training.loop import Trainer
from eexit.training.probes.gate import GateTrainer
from eexit.training.probes.probe import ProbeTrainer
from eexit.training.trainer_inputs import TrainerInputs

TRAINERS: Final[dict[str, Callable[[TrainerInputs], Trainer]]] = {
    "linear": LinearTrainer,
    "probe": ProbeTrainer,
    "gate": GateTrainer,
    "kv-maps": KVMapTrainer,
}
