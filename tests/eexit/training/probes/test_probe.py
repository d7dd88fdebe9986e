"""`probe`: what can be known of the KL is found, and the tables say how well."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from trained import LAYERS, frozen_llama, learned, setup_of, summed

from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Probe
from eexit.method.linear_predictors import log_kl as predicted_log_kl
from eexit.method.rules import RULES
from eexit.method.stick_breaking import choose_exits
from eexit.training.probes.calibration import calibrate
from eexit.training.probes.probe import ProbeTrainer, card_row, linear_probe, log_kl, stop_chance
from eexit.training.ridge import Moments
from eexit.training.trainer_inputs import KL_FACTORS


def test_a_probe_that_is_shown_the_true_kl_exits_as_the_rule_that_knows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    kl_NE = torch.randn(400, 2, generator=generator).mul(2).exp()
    probes, predicted = {}, []
    for rank in range(2):
        stream_NW = torch.randn(400, 6, generator=generator) * 10
        stream_NW[:, 3] = log_kl(kl_NE[:, rank]) * 5 - 2  # anywhere in the stream, on any scale
        one, other = (
            Moments.from_tokens(stream_NW[half], log_kl(kl_NE[half, rank, None]))
            for half in (slice(200), slice(200, 400))
        )
        probes[rank] = linear_probe(one, other)
        predicted.append(Probe(probes).predicted_kl(stream_NW, rank, torch.ones(400)))
    u_N = torch.rand(400, generator=generator)
    exits = [
        choose_exits(RULES["kl"].chances(seen_NE, torch.ones_like(seen_NE)), u_N)
        for seen_NE in (kl_NE, torch.stack(predicted, 1))
    ]
    assert set(exits[0].tolist()) == {0, 1, 2}
    assert (exits[0] == exits[1]).float().mean() > 0.99  # but where a draw is within rounding of a chance


def unsure_probe() -> tuple[LinearMap, Tensor, Tensor]:
    """One that knows a half of log KL and predicts it twice as boldly; streams, and the true KLs."""
    generator = torch.Generator().manual_seed(0)
    known_N, unknown_N = torch.randn(2, 4000, generator=generator)
    probe = LinearMap(torch.tensor([[2.0], [0.0]]), torch.tensor([-1.0]))
    return probe, known_N[:, None], (known_N + unknown_N).exp()


def gap(probe: LinearMap, stream_NW: Tensor, kl_N: Tensor) -> float:
    """The largest difference between predicted and true chances to stop, of bins with 100 tokens, at any KL factor."""
    gaps = []
    for factor in KL_FACTORS:
        seen_N = stop_chance(Probe({0: probe}).predicted_kl(stream_NW, 0, torch.full_like(kl_N, factor)), factor)
        bin_N, true_N = (seen_N * 10).long(), stop_chance(kl_N, factor)
        in_bins = [torch.eq(bin_N, number) for number in range(10)]
        gaps += [(seen_N[at].mean() - true_N[at].mean()).abs().item() for at in in_bins if at.sum() >= 100]
    return max(gaps)


def test_calibration_makes_the_chances_of_a_bold_probe_true() -> None:
    probe, stream_NW, kl_N = unsure_probe()
    calibration = calibrate(predicted_log_kl(probe, stream_NW), kl_N)
    assert gap(probe, stream_NW, kl_N) > 0.2
    assert gap(calibration.apply(probe), stream_NW, kl_N) < 0.05


def test_calibration_leaves_a_probe_that_knows_the_kl_as_it_is() -> None:
    _, _, kl_N = unsure_probe()
    assert vars(calibrate(kl_N.log(), kl_N)) == pytest.approx({"scale": 1, "slope": 1, "shift": 0}, abs=1e-6)


def test_a_calibrated_probe_stops_at_once_at_factor_0_and_less_often_the_larger_the_factor() -> None:
    probe, stream_NW, kl_N = unsure_probe()
    calibrated = Probe({0: calibrate(predicted_log_kl(probe, stream_NW), kl_N).apply(probe)})
    chances = []
    for factor in (0.0, 1e-9, 0.5, 1.0, 1e3):
        factor_N = torch.full_like(kl_N, factor)
        seen_N = calibrated.predicted_kl(stream_NW, 0, factor_N)
        chances.append(RULES["kl"].chances(seen_N, factor_N).exit_BE)
    assert (chances[0] == 1).all()
    assert all((later <= earlier).all() for earlier, later in pairwise(chances))
    assert chances[-1].mean() < 0.02


def test_a_probe_learns_and_its_table_says_which_exits_it_keeps() -> None:
    model, texts = frozen_llama(), learned(frozen_llama())
    trainer = ProbeTrainer(setup_of(model, "probe"))
    weights = trainer.solve(summed(trainer, texts))
    parts = ("weight", "bias")
    assert weights.keys() == {f"probe.{layer}.{part}" for layer in LAYERS for part in parts}
    rows = trainer.table(texts)  # of what it has seen: a few tokens teach nothing about others
    assert [(row.layer, row.at) for row in rows] == [(layer, factor) for layer in LAYERS for factor in KL_FACTORS]
    assert {row.n for row in rows} == {sum(len(text.token_ids) - 1 for text in texts)}
    assert all((row.kept or 0) > (row.taken or 0) > 0 for row in rows), "better than leaving it to chance"


def test_exits_are_kept_where_the_same_draw_stops_both_rules() -> None:
    predicted_N, true_N = torch.tensor([0.2, 0.9, 0.0, 0.5]), torch.tensor([0.4, 0.6, 0.0, 1.0])
    found = card_row(3, 2.0, predicted_N, true_N)
    assert (found.layer, found.series, found.at, found.n) == (3, "predicted_kl", 2.0, 4)
    assert found.taken == pytest.approx(0.4)
    assert found.kept == pytest.approx((0.2 + 0.6 + 0.5) / 2.0)
    assert card_row(3, 2.0, predicted_N, torch.zeros(4)).kept is None
