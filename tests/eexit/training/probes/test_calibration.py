"""Calibration: chances of a gate and of a probe are true on average."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Probe
from eexit.method.linear_predictors import log_kl as predicted_log_kl
from eexit.method.rules import RULES
from eexit.training.probes.calibration import calibrate, calibrate_odds
from eexit.training.probes.probe import stop_chance
from eexit.training.trainer_inputs import KL_FACTORS


def test_chances_are_true_on_average_where_they_are_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    seen_NR = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    stop_NR = (torch.rand(4000, 2, generator=generator) < (3 * seen_NR - torch.tensor([2.0, 0.0])).sigmoid()).float()
    scale_R, shift_R = calibrate_odds(seen_NR / 100 + 5, stop_NR)
    chance_NR = ((seen_NR / 100 + 5) * scale_R + shift_R).sigmoid()
    assert chance_NR.mean(0).tolist() == pytest.approx(stop_NR.mean(0).tolist(), abs=0.002)
    assert scale_R.tolist() == pytest.approx([300, 300], rel=0.1)
    scale_R, shift_R = calibrate_odds(torch.zeros(50, 1, dtype=torch.float64), torch.zeros(50, 1))
    assert float(shift_R.sigmoid()) < 0.05, "of a rule that never exits"
    assert torch.isfinite(scale_R).all()


def gap(probe: LinearMap, stream_NW: Tensor, kl_N: Tensor) -> float:
    """Return the largest gap between predicted and true chances in bins of 100 tokens or more, at any KL factor."""
    gaps = []
    for factor in KL_FACTORS:
        seen_N = stop_chance(Probe({0: probe}).predicted_kl(stream_NW, 0, torch.full_like(kl_N, factor)), factor)
        bin_N, true_N = (seen_N * 10).long(), stop_chance(kl_N, factor)
        in_bins = [torch.eq(bin_N, number) for number in range(10)]
        gaps += [(seen_N[at].mean() - true_N[at].mean()).abs().item() for at in in_bins if at.sum() >= 100]
    return max(gaps)


def test_calibration_makes_the_chances_of_a_bold_probe_true_and_leaves_one_that_has_the_kl_as_it_is() -> None:
    """A calibrated probe stops at once at factor 0, and less often the larger the factor."""
    known_N, unknown_N = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    probe, stream_NW = LinearMap(torch.tensor([[2.0], [0.0]]), torch.tensor([-1.0])), known_N[:, None]
    kl_N = (known_N + unknown_N).exp()
    calibrated = calibrate(predicted_log_kl(probe, stream_NW), kl_N).apply(probe)
    assert gap(calibrated, stream_NW, kl_N) < 0.05 < 0.2 < gap(probe, stream_NW, kl_N)
    assert vars(calibrate(kl_N.log(), kl_N)) == pytest.approx({"scale": 1, "slope": 1, "shift": 0}, abs=1e-6)
    chances = []
    for factor in (0.0, 1e-9, 0.5, 1.0, 1e3):
        factor_N = torch.full_like(kl_N, factor)
        seen_N = Probe({0: calibrated}).predicted_kl(stream_NW, 0, factor_N)
        chances.append(RULES["kl"].chances(seen_N, factor_N).exit_BE)
    assert (chances[0] == 1).all()
    assert all((later <= earlier).all() for earlier, later in pairwise(chances))
    assert chances[-1].mean() < 0.02
