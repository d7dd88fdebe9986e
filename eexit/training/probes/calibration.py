"""Calibration of probes and gates: it makes their predicted exit probabilities right on average.

A probe is fitted to log KL. True KLs scatter around an uncertain prediction, and the exit probability at the predicted
KL is not the mean of the probabilities at the true KLs. With x = log KL + log k, the exit probability
2·sigmoid(−exp(x)) falls from 1 to 0 within a few nats of x. A mean of such curves with different shifts falls more
slowly.

So x is replaced by scale · log KL + slope · log k + shift: three numbers per layer, similar to Platt (1999) for
classifier outputs. They are fitted on validation texts, and so also correct overfitting to the training texts.

Shapes: N tokens, K KL factors, R rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import LOG_KL_RANGE
from eexit.training.trainer_inputs import KL_FACTORS

MOST_STEPS: Final = 100
LEAST_STD: Final = 1e-12  # of predictions, which may be constant
PENALTY: Final = 1e-4  # on the squared distance from no calibration, or for gates from 0; small beside any data


@dataclass(frozen=True)
class Calibration:
    """Calibration of a layer's probe, with scale and slope ≥ 0.

    log KL + log k becomes scale · log KL + slope · log k + shift.
    """

    scale: float
    slope: float
    shift: float  # nats

    def apply(self, probe: LinearMap) -> LinearMap:
        """Return the layer's probe with this calibration."""
        power_11 = torch.full_like(probe.weight[-1:], self.slope - 1)
        return LinearMap(torch.cat([probe.weight[:-1] * self.scale, power_11]), probe.bias * self.scale + self.shift)


def calibrate(log_kl_N: Tensor, true_kl_N: Tensor) -> Calibration:
    """Return the calibration with the least loss for predicted log KLs and true KLs in nats.

    The loss is the KL divergence of the predicted from the true exit probability, averaged over tokens and KL factors.
    Among predictions that separate tokens equally well, it is least for those that are right on average.
    """
    seen_N1, true_N1 = log_kl_N.cpu().double()[:, None], true_kl_N.cpu().double().log()[:, None]
    log_k_K = torch.tensor(KL_FACTORS, dtype=torch.float64).log()
    mean = seen_N1.mean()
    start = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)  # roots of scale and slope; shift at the mean

    def loss(found: Tensor) -> Tensor:
        seen_NK = (seen_N1 - mean) * found[0].square() + mean + found[1].square() * log_k_K + found[2]
        return _chance_loss(seen_NK, true_N1 + log_k_K)

    found = _least(start, lambda found: loss(found) + PENALTY * (found - start).square().sum())
    scale, slope, shift = (*found[:2].square().tolist(), found[2].item())
    return Calibration(scale, slope, shift + mean.item() * (1 - scale))


def calibrate_odds(seen_NR: Tensor, stop_NR: Tensor) -> tuple[Tensor, Tensor]:
    """Return each rule's scale and shift, (R,), from predictions to log-odds of its exit, by logistic regression."""
    mean_R, std_R = seen_NR.mean(0), seen_NR.std(0).clamp_min(LEAST_STD)
    z_NR, stop_NR = (seen_NR - mean_R) / std_R, stop_NR.double()

    def penalised(found_2R: Tensor) -> Tensor:
        log_odds_NR = z_NR * found_2R[0] + found_2R[1]
        loss_R = F.binary_cross_entropy_with_logits(log_odds_NR, stop_NR, reduction="none").mean(0)
        return loss_R.sum() + PENALTY * found_2R.square().sum()

    scale_R, at_mean_R = _least(torch.stack([torch.ones_like(mean_R), torch.zeros_like(mean_R)]), penalised)
    return scale_R / std_R, at_mean_R - scale_R / std_R * mean_R


def _least(start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    found = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([found], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def with_gradients() -> Tensor:
        optimiser.zero_grad()
        total = loss(found)
        total.backward()
        return total

    optimiser.step(with_gradients)
    return found.detach()


def _chance_loss(seen_NK: Tensor, true_NK: Tensor) -> Tensor:
    """Return the loss of `calibrate` for predicted and true log KL + log k.

    Log space keeps the digits of probabilities near 0 and 1.
    """
    seen_NK, true_NK = (log_kl_NK.clamp(*LOG_KL_RANGE).exp() for log_kl_NK in (seen_NK, true_NK))
    stop_NK, go_NK = 2 * (-true_NK).sigmoid(), (true_NK / 2).tanh()
    own_NK = torch.xlogy(stop_NK, stop_NK) + torch.xlogy(go_NK, go_NK)
    seen_stop_NK, seen_go_NK = log(2) + F.logsigmoid(-seen_NK), (seen_NK / 2).tanh().log()
    return (own_NK - stop_NK * seen_stop_NK - go_NK * seen_go_NK).mean()
