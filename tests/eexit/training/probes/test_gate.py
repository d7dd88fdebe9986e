"""`gate`: what rules will do is predicted from streams, as chances that are true on average."""

import torch
from trained import LAYERS, frozen_llama, held_out, learned, setup_of, summed

from eexit.training.probes.gate import GateTrainer, card_row

RULE = "confidence/0.3"


def test_a_gate_predicts_exits_of_texts_that_it_learned_from() -> None:
    texts = learned(frozen_llama())
    trainer = GateTrainer(setup_of(frozen_llama(), "gate", rules=(RULE, "entropy/1.5")))
    weights = trainer.solve(summed(trainer, texts))
    assert {name: part.shape for name, part in weights.items()} == {
        f"gate.{layer}.{name}": shape for layer in LAYERS for name, shape in (("weight", (32, 2)), ("bias", (2,)))
    }
    rows = trainer.table([text for text in texts if not text.chooses])
    of_layer = [row for row in rows if row.layer == LAYERS[-1] and row.series == RULE]
    choosy = [row for row in of_layer if row.taken and row.taken < 1]
    assert choosy, "some threshold lets some through"
    assert (choosy[-1].kept or 0) > (choosy[-1].taken or 0) > 0, "what it lets through exits more often than others"
    assert (of_layer[0].kept or 0) >= (of_layer[-1].kept or 0)
    assert len(trainer.table(held_out(frozen_llama()))) == 2 * len(LAYERS) * 6
    found = card_row(3, RULE, 0.5, torch.tensor([0.9, 0.6, 0.2, 0.1]), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert (found.layer, found.series, found.at, found.n, found.taken, found.kept) == (3, RULE, 0.5, 4, 0.5, 0.5)
    nothing = card_row(3, RULE, 1.0, torch.tensor([0.2]), torch.tensor([0.0]))
    assert (nothing.taken, nothing.kept) == (0, None)
