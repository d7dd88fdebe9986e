"""`gate`: what rules will do is predicted from streams, as chances that are true on average."""

import pytest
import torch
from trained import LAYERS, frozen_llama, held_out, learned, setup_of

from eexit.method.gate import Gate
from eexit.training.probes.calibration import calibrate_odds
from eexit.training.probes.gate import GateTrainer, row
from eexit.training.texts import blocks

RULE = "confidence/0.3"


def trained() -> GateTrainer:
    trainer = GateTrainer(setup_of(frozen_llama(), "gate", rules=(RULE, "entropy/1.5")))
    for block in blocks(learned(frozen_llama()), 30):
        assert trainer.train(block) is None
    return trainer


def test_chances_are_true_on_average_where_they_are_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    seen_NR = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    stop_NR = (torch.rand(4000, 2, generator=generator) < (3 * seen_NR - torch.tensor([2.0, 0.0])).sigmoid()).float()
    scale_R, shift_R = calibrate_odds(seen_NR / 100 + 5, stop_NR)
    chance_NR = ((seen_NR / 100 + 5) * scale_R + shift_R).sigmoid()
    assert chance_NR.mean(0).tolist() == pytest.approx(stop_NR.mean(0).tolist(), abs=0.002)
    assert scale_R.tolist() == pytest.approx([300, 300], rel=0.1)


def test_a_rule_that_never_exits_has_small_chances_and_no_error() -> None:
    scale_R, shift_R = calibrate_odds(torch.zeros(50, 1, dtype=torch.float64), torch.zeros(50, 1))
    assert float(shift_R.sigmoid()) < 0.05
    assert torch.isfinite(scale_R).all()


def test_a_gate_predicts_exits_of_texts_that_it_learned_from() -> None:
    trainer = trained()
    trainer.finish()
    gate = Gate.of((RULE, "entropy/1.5"), trainer.weights(), LAYERS)
    assert {name: part.shape for name, part in trainer.weights().items()} == {
        f"gate.{layer}.{name}": shape for layer in LAYERS for name, shape in (("weight", (32, 2)), ("bias", (2,)))
    }
    rows = trainer.tables([text for text in learned(frozen_llama()) if not text.chooses])["gates"]
    of_layer = [row for row in rows if row["layer"] == LAYERS[-1] and row["rule"] == RULE]
    choosy = [row for row in of_layer if 0 < row["read"] < 1]
    assert choosy, "some threshold lets some through"
    assert 0 < choosy[-1]["exits"] < choosy[-1]["true"], "what it lets through exits more often than others"
    assert of_layer[0]["kept"] >= of_layer[-1]["kept"]
    assert gate.rules == (RULE, "entropy/1.5")
    assert len(trainer.tables(held_out(frozen_llama()))["gates"]) == 2 * len(LAYERS) * 6


def test_the_shares_of_a_row() -> None:
    found = row(3, RULE, 0.5, torch.tensor([0.9, 0.6, 0.2, 0.1]), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert found == pytest.approx(
        {
            "layer": 3,
            "rule": RULE,
            "threshold": 0.5,
            "exits": 0.5,
            "read": 0.5,
            "kept": 0.5,
            "predicted": 0.75,
            "true": 0.5,
        }
    )
    nothing = row(3, RULE, 1.0, torch.tensor([0.2]), torch.tensor([0.0]))
    assert (nothing["read"], nothing["kept"], nothing["predicted"], nothing["true"]) == (0, None, None, None)
