"""Every way to train goes on from its state as if it had not been interrupted; a student's is with its own tests."""

import pytest
import torch
from trained import frozen_llama, learned, setup_of

from eexit.training.trainer import Trainer
from eexit.training.trainers import TRAINERS

SETTINGS: dict[str, dict[str, object]] = {
    "linear": {},
    "tuned": {"passes": 2, "tokens_per_step": 24},
    "probe": {"passes": 2, "tokens_per_step": 24, "learning_rate": 1e-2},
    "gate": {"rules": ("confidence/0.3", "entropy/1.5")},
    "state": {"rounds": 2},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_going_on_from_a_state_gives_the_same_weights(what: str) -> None:
    """It is stopped after every block: among the sums, and among the steps or rounds of those that have some."""
    model = frozen_llama()
    texts = learned(model)

    def made() -> Trainer:
        return TRAINERS[what](setup_of(model, what, None, **SETTINGS[what]))

    whole, stopped = made(), made()
    for block in [texts[:3], texts[3:]] * whole.passes:
        whole.train(block)
        stopped.train(block)
        state = {name: tensor.clone() for name, tensor in stopped.state().items()}
        stopped = made()
        stopped.restore(state)
    for trainer in (whole, stopped):
        trainer.finish()
    assert whole.found_options() == stopped.found_options()
    assert whole.weights().keys() == stopped.weights().keys()
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, stopped.weights()[name])
