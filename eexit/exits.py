"""The exit rule: how far a layer's distribution is from the final one, and which layer the token is read from.

Shapes: B rows, E exitable layers, X = E + 1 with the final layer last, K top tokens, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eexit.config import SweepConfig, UsageError
from eexit.cpu.search import first_highest, likeliest


def resolve_exitable_layers(config: SweepConfig, n_layers: int) -> tuple[int, ...]:
    """Layers after which a token may be read, increasing, all below the final layer.

    Raises `UsageError` for a layer at or beyond the final one, or if none is left.
    """
    if config.exit_layers is None:
        return every_nth_layer(n_layers, config.exit_every)
    beyond = [layer for layer in config.exit_layers if layer >= n_layers - 1]
    if beyond:
        raise UsageError(
            f"exit layer {beyond[0]} is not below the final layer: {config.model} has layers 0…{n_layers - 1}, "
            f"so --exit-layers may go up to {n_layers - 2}"
        )
    return config.exit_layers


def every_nth_layer(n_layers: int, n: int = 5) -> tuple[int, ...]:
    """Layers l with 0 < l < L-1 and l % n == 0. Raises `UsageError` where there is none."""
    layers = tuple(range(n, n_layers - 1, n))
    if not layers:
        raise UsageError(
            f"no exitable layer: the model has layers 0…{n_layers - 1} and --exit-every is {n}; "
            f"lower it or give --exit-layers"
        )
    return layers


@dataclass(frozen=True)
class Divergence:
    """How the exitable layers' distributions of each row differ from its final one; nats, fp32."""

    kl_BE: Tensor
    entropy_B: Tensor  # of the final distribution
    final_lse_B: Tensor  # its logits' log-sum-exp
    likeliest_BX: Tensor  # each layer's likeliest token
    likeliest_log_p_BX: Tensor
    top_token_BXK: Tensor  # its K likeliest
    top_prob_BXK: Tensor

    @property
    def certain_BX(self) -> Tensor:
        """The exit probabilities of rows that draw no exit: all on the final layer."""
        return F.pad(torch.zeros_like(self.kl_BE), (0, 1), value=1.0)


def divergence_from_final(logits_BXV: Tensor, n_top: int = 0) -> Divergence:
    """Compare each row's exitable layers with its final layer: X = E + 1 of them, the final one last.

    KL(final || exit) = Σ_v p_final·(log p_final − log p_exit) ≥ 0, as the difference of two expectations, from
    log-softmax. `n_top` tokens of each layer are noted with their probabilities.
    """
    log_p_BXV = torch.log_softmax(logits_BXV, -1, dtype=torch.float32)
    p_final_BV = log_p_BXV[:, -1].exp()
    expected_BX = torch.bmm(log_p_BXV, p_final_BV[:, :, None])[:, :, 0]
    top_token_BXK, top_log_p_BXK = likeliest(log_p_BXV, n_top)
    likeliest_BX = first_highest(log_p_BXV)
    return Divergence(
        kl_BE=(expected_BX[:, -1:] - expected_BX[:, :-1]).clamp_min(0),
        entropy_B=-expected_BX[:, -1],
        final_lse_B=logits_BXV[:, -1, 0].float() - log_p_BXV[:, -1, 0],
        likeliest_BX=likeliest_BX,
        likeliest_log_p_BX=log_p_BXV.gather(-1, likeliest_BX[..., None])[..., 0],
        top_token_BXK=top_token_BXK,
        top_prob_BXK=top_log_p_BXK.exp(),
    )


def exit_probabilities(kl_BE: Tensor, kl_factor_B: Tensor) -> Tensor:
    """Stick-breaking over the exitable layers: shape (B, E + 1), the final layer last; each row sums to 1.

    A layer that is reached is taken with s = 2·sigmoid(−k·KL): 1 where KL or k is 0, towards 0 as k·KL grows.
    """
    stop_BE = 2 * torch.sigmoid(-kl_factor_B[:, None] * kl_BE)
    passed_BE = _passed(kl_BE, kl_factor_B)
    reached_BE = torch.cat([torch.ones_like(passed_BE[:, :1]), passed_BE[:, :-1]], dim=-1)
    return torch.cat([stop_BE * reached_BE, passed_BE[:, -1:]], dim=-1)


def choose_exits(kl_BE: Tensor, kl_factor_B: Tensor, u_B: Tensor) -> Tensor:
    """The first exitable layer i with 1 − Π_{j≤i}(1−s_j) > u, as an index into them; E for the final layer.

    A larger k shrinks every s, so for the same KL and u it never exits earlier.
    """
    return (1 - _passed(kl_BE, kl_factor_B) <= u_B[:, None]).sum(-1)


def _passed(kl_BE: Tensor, kl_factor_B: Tensor) -> Tensor:
    """Π_{j≤i}(1−s_j), with 1 − 2·sigmoid(−x) = tanh(x / 2), which keeps its digits near 0."""
    return torch.cumprod(torch.tanh(kl_factor_B[:, None] * kl_BE / 2), dim=-1)
