"""Linear predictors on the hidden state after a layer: gates, of whether a rule exits there, and probes, of the KL."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from eexit.method.linear_map import LayerMaps, LinearMap

LOG_KL_RANGE: Final = (-30.0, 30.0)  # of predictions: hidden states unlike those of training must give finite KLs
LEAST_KL_FACTOR: Final = 1e-6  # below, a predicted KL no longer grows, so that k · KL is 0 at k = 0


@dataclass(frozen=True, eq=False)
class Gate(LayerMaps):
    """Maps (D, number of rules) to the log-odds that rules exit at a layer.

    A read of the LM head can cost as much as several layers, a gate one product with a vector. A layer is read only if
    the gate predicts at least the configuration's threshold; at other layers, the rule does not exit.
    """

    rules: tuple[str, ...]  # keys such as `confidence/0.97`
    role = "gate"

    def chance(self, hidden_ND: Tensor, layer: int, rule: str) -> Tensor:
        """Return the probability, (N,), that a rule exits at a layer."""
        at, of_rules = self.rules.index(rule), self.maps[layer]
        of_rule = LinearMap(of_rules.weight[:, at : at + 1], of_rules.bias[at : at + 1])
        return of_rule.product(hidden_ND)[:, 0].sigmoid()


@dataclass(frozen=True, eq=False)
class Probe(LayerMaps):
    """Maps (D + 1, 1) from a hidden state, with log k of the KL factor k behind it, to log KL(final ‖ layer).

    A prediction is uncertain: a hidden state leaves many KLs possible. A calibrated probe predicts the KL at which rule
    `kl` exits with the mean of its exit probabilities at the possible KLs. This KL depends on k, since the smallest KLs
    count more the larger k is. The weight of log k is between −1 (the hidden state carries no information on the KL)
    and 0 (it determines the KL).
    """

    role = "probe"

    def predicted_kl(self, hidden_ND: Tensor, layer: int, kl_factor_N: Tensor) -> Tensor:
        """Return the predicted KL(final ‖ layer) at these KL factors, (N,), nats, fp32."""
        return log_kl(self.maps[layer], hidden_ND, kl_factor_N).clamp(*LOG_KL_RANGE).exp()


def log_kl(probe: LinearMap, hidden_ND: Tensor, kl_factor_N: Tensor | float = 1.0) -> Tensor:
    """Return the log KL that a layer's probe predicts at these KL factors, (N,), nats."""
    log_k = torch.as_tensor(kl_factor_N, dtype=probe.bias.dtype).clamp_min(LEAST_KL_FACTOR).log()
    at_one = LinearMap(probe.weight[:-1], probe.bias)
    return at_one.product(hidden_ND)[:, 0] + probe.weight[-1] * log_k
