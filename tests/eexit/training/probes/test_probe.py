"""`probe`: what can be known of the KL is found, and the tables say how well."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from trained import LAYERS, frozen_llama, learned, setup_of

from eexit.method.probes import LayerProbe, Probe
from eexit.method.rules import RULES
from eexit.method.stick_breaking import choose_exits
from eexit.training.probes.calibration import calibrate
from eexit.training.probes.probe import ProbeTrainer, linear_probe, log_kl
from eexit.training.probes.tables import calibration_rows, rank_correlation
from eexit.training.ridge import Sums


def test_a_probe_that_is_shown_the_true_kl_exits_as_the_rule_that_knows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    kl_NE = torch.randn(400, 2, generator=generator).mul(2).exp()
    probes, predicted = {}, []
    for rank in range(2):
        stream_NW = torch.randn(400, 6, generator=generator) * 10
        stream_NW[:, 3] = log_kl(kl_NE[:, rank]) * 5 - 2  # anywhere in the stream, on any scale
        one, other = (
            Sums.of(stream_NW[half], log_kl(kl_NE[half, rank, None])) for half in (slice(200), slice(200, 400))
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


def unsure_probe() -> tuple[LayerProbe, Tensor, Tensor]:
    """One that knows a half of log KL and predicts it twice as boldly; streams, and the true KLs."""
    generator = torch.Generator().manual_seed(0)
    known_N, unknown_N = torch.randn(2, 4000, generator=generator)
    probe = LayerProbe(torch.zeros(1), torch.ones(1), torch.tensor([2.0]), torch.tensor(-1.0))
    return probe, known_N[:, None], (known_N + unknown_N).exp()


def gap(probe: LayerProbe, stream_NW: Tensor, kl_N: Tensor) -> float:
    """The largest difference between predicted and true chances, of bins with 100 tokens, at any KL factor."""
    factors = (0.5, 1.0, 2.0, 4.0)
    seen = {k: Probe({0: probe}).predicted_kl(stream_NW, 0, torch.full_like(kl_N, k)) for k in factors}
    rows = [row for row in calibration_rows(0, seen, kl_N) if row["n"] >= 100]
    assert {row["kl_factor"] for row in rows} == set(factors)
    return max([float(abs(row["predicted"] - row["true"])) for row in rows])


def test_calibration_makes_the_chances_of_a_bold_probe_true() -> None:
    probe, stream_NW, kl_N = unsure_probe()
    calibration = calibrate(probe.log_kl(stream_NW), kl_N)
    assert gap(probe, stream_NW, kl_N) > 0.2
    assert gap(calibration.of(probe), stream_NW, kl_N) < 0.05


def test_calibration_leaves_a_probe_that_knows_the_kl_as_it_is() -> None:
    _, _, kl_N = unsure_probe()
    assert vars(calibrate(kl_N.log(), kl_N)) == pytest.approx({"scale": 1, "slope": 1, "shift": 0, "loss": 0}, abs=1e-6)


def test_a_calibrated_probe_stops_at_once_at_factor_0_and_less_often_the_larger_the_factor() -> None:
    probe, stream_NW, kl_N = unsure_probe()
    calibrated = Probe({0: calibrate(probe.log_kl(stream_NW), kl_N).of(probe)})
    chances = []
    for factor in (0.0, 1e-9, 0.5, 1.0, 1e3):
        factor_N = torch.full_like(kl_N, factor)
        seen_N = calibrated.predicted_kl(stream_NW, 0, factor_N)
        chances.append(RULES["kl"].chances(seen_N, factor_N).stop_BE)
    assert (chances[0] == 1).all()
    assert all((later <= earlier).all() for earlier, later in pairwise(chances))
    assert chances[-1].mean() < 0.02


def trained(passes: int = 8) -> ProbeTrainer:
    model = frozen_llama()
    trainer = ProbeTrainer(setup_of(model, "probe", passes=passes, tokens_per_step=24, learning_rate=1e-2))
    for _ in range(trainer.passes):
        trainer.train(learned(model))
    trainer.finish()
    return trainer


def test_both_kinds_learn_and_the_better_one_is_kept() -> None:
    model, trainer = frozen_llama(), trained()
    tables = trainer.tables(learned(model))  # of what it has seen: a few tokens teach nothing about others
    for row in tables["probes"]:
        assert row["rank_correlation_linear"] > 0.3
        assert row["rank_correlation_mlp"] > 0.3
        assert row["rank_correlation"] == row[f"rank_correlation_{row['kind']}"]
    kinds = {row["layer"]: row["kind"] for row in tables["probes"]}
    names = trainer.weights().keys()
    assert {layer for layer in LAYERS if f"probe.{layer}.hidden_weight" in names} == {
        layer for layer, kind in kinds.items() if kind == "mlp"
    }
    rows = [(row["rule"], row["kl_factor"]) for row in tables["trade_off"]]
    assert rows == [(rule, factor) for rule in ("kl", "predicted_kl") for factor in (0.5, 1.0, 2.0, 4.0)]
    n_tokens = sum(len(text.token_ids) - 1 for text in learned(model))
    for layer in LAYERS:
        for factor in (0.5, 1.0, 2.0, 4.0):
            bins = [row for row in tables["calibration"] if (row["layer"], row["kl_factor"]) == (layer, factor)]
            assert sum(row["n"] for row in bins) == n_tokens
            assert all(row["bin"] <= 10 * row["predicted"] <= row["bin"] + 1 for row in bins)


def test_rank_correlation_is_spearmans_ties_included() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 5, 60), random.normal(size=60)
    mine = rank_correlation(torch.tensor(one), torch.tensor(other))
    assert mine == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(torch.ones(5), torch.rand(5)) == 0


def test_calibration_sets_predicted_chances_beside_true_ones() -> None:
    kl_N = torch.tensor([0.0, 0.0, 1.0, 9.0])
    at_1 = list(calibration_rows(3, {1.0: torch.tensor([0.0, 0.0, 1.0, 1.0])}, kl_N))
    assert [(row["bin"], row["n"]) for row in at_1] == [(5, 2), (9, 2)]
    assert at_1[0]["predicted"] == pytest.approx(2 / (1 + np.e))
    assert at_1[0]["true"] == pytest.approx((2 / (1 + np.e) + 2 / (1 + np.e**9)) / 2)
    assert (at_1[1]["predicted"], at_1[1]["true"]) == (1.0, 1.0)
