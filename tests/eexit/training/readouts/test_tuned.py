"""`tuned`: it starts as the logit lens, and gets closer to the final layer from there."""

import torch
from references import decoder_of
from trained import LAYERS, frozen_llama, held_out, learned, setup_of

from eexit.method.readouts import READOUTS
from eexit.training.readouts.tuned import TunedTrainer
from eexit.training.streams import streams


def test_before_it_has_learned_it_is_the_logit_lens() -> None:
    model = frozen_llama()
    decoder, trainer = decoder_of(model), TunedTrainer(setup_of(model, "tuned"))
    readout = trainer.readout()
    states_NXW = streams(decoder, held_out(model), LAYERS)
    for rank, layer in enumerate(LAYERS):
        hidden_NW = states_NXW[:, rank]
        lens_NH = READOUTS["lens"].before_head(decoder, hidden_NW, layer)
        assert torch.equal(readout.before_head(decoder, hidden_NW, layer), lens_NH)


def test_it_learns_what_its_weights_then_say() -> None:
    model = frozen_llama()
    texts, trainer = (
        learned(model),
        TunedTrainer(setup_of(model, "tuned", passes=6, tokens_per_step=24, learning_rate=1e-2)),
    )
    of_lens = trainer.held_out_loss(texts)
    assert trainer.train(texts) is None  # the sums
    of_start = trainer.held_out_loss(texts)
    losses = [trainer.train(texts) or 0.0 for _ in range(6)]
    after = trainer.held_out_loss(texts)
    assert of_start < 0.9 * of_lens
    assert losses == sorted(losses, reverse=True)
    assert after < of_start
    decoder, states_NXW = decoder_of(model), streams(decoder_of(model), texts, LAYERS)
    readout = trainer.readout()
    for rank, layer in enumerate(LAYERS):  # in the white basis, and in the stream's own
        written = readout.before_head(decoder, states_NXW[:, rank], layer)
        torch.testing.assert_close(trainer._ready(states_NXW[:, rank], rank), written, rtol=1e-3, atol=1e-3)
