"""`probe`: what can be known of the KL is found, and the tables say how well."""

import pytest
import torch
from trained import LAYERS, frozen_llama, learned, setup_of, summed

from eexit.method.linear_predictors import Probe
from eexit.method.rules import RULES
from eexit.method.stick_breaking import choose_exits
from eexit.training.probes.probe import ProbeTrainer, card_row, linear_probe, log_kl
from eexit.training.ridge import Moments
from eexit.training.trainer_inputs import KL_FACTORS


def test_a_probe_that_is_shown_the_true_kl_exits_as_the_rule_that_knows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    kl_NE = torch.randn(400, 2, generator=generator).mul(2).exp()
    probes, predicted = {}, []
    for rank in range(2):
        stream_NW = torch.randn(400, 6, generator=generator) * 10
        stream_NW[:, 3] = log_kl(kl_NE[:, rank]) * 5 - 2  # anywhere in the stream, on any scale
        target_N1 = log_kl(kl_NE[:, rank, None])
        one, other = map(Moments.from_tokens, stream_NW.split(200), target_N1.split(200))
        probes[rank] = linear_probe(one, other)
        predicted.append(Probe(probes).predicted_kl(stream_NW, rank, torch.ones(400)))
    u_N = torch.rand(400, generator=generator)
    seen = (kl_NE, torch.stack(predicted, 1))
    exits = [choose_exits(RULES["kl"].chances(each_NE, torch.ones_like(each_NE)), u_N) for each_NE in seen]
    assert set(exits[0].tolist()) == {0, 1, 2}
    assert (exits[0] == exits[1]).float().mean() > 0.99  # but where a draw is within rounding of a chance


def test_a_probe_learns_and_its_table_says_which_exits_it_keeps() -> None:
    texts, trainer = learned(frozen_llama()), ProbeTrainer(setup_of(frozen_llama(), "probe"))
    weights, parts = trainer.solve(summed(trainer, texts)), ("weight", "bias")
    assert weights.keys() == {f"probe.{layer}.{part}" for layer in LAYERS for part in parts}
    rows = trainer.table(texts)  # of what it has seen: a few tokens teach nothing about others
    assert [(row.layer, row.at) for row in rows] == [(layer, factor) for layer in LAYERS for factor in KL_FACTORS]
    assert {row.n for row in rows} == {sum(len(text.token_ids) - 1 for text in texts)}
    assert all((row.kept or 0) > (row.taken or 0) > 0 for row in rows), "better than leaving it to chance"
    predicted_N, true_N = torch.tensor([0.2, 0.9, 0.0, 0.5]), torch.tensor([0.4, 0.6, 0.0, 1.0])
    found = card_row(3, 2.0, predicted_N, true_N)
    assert (found.layer, found.series, found.at, found.n) == (3, "predicted_kl", 2.0, 4)
    assert (found.taken, found.kept) == pytest.approx((0.4, (0.2 + 0.6 + 0.5) / 2.0))
    assert card_row(3, 2.0, predicted_N, torch.zeros(4)).kept is None
