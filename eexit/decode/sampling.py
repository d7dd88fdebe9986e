"""Next tokens from logits, greedy or sampled."""

from typing import Final

import torch
from torch import Tensor

N_LIKELIEST: Final = 256  # tokens among which a CPU samples at first: sorting a vocabulary takes longer than a step


def pick_tokens(logits_BV: Tensor, temperature: float, top_p: float, u_B: Tensor) -> Tensor:
    """Return the likeliest token of each row, (B,), the first of equal ones; with a temperature, sample the token.

    Sampling inverts the cumulative distribution, likeliest token first, at the uniform draws `u_B`. `top_p` keeps the
    smallest set of likeliest tokens with at least that probability (nucleus sampling, Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    p_BV = torch.softmax(logits_BV.float() / temperature, -1)
    if p_BV.device.type != "cpu" or p_BV.shape[1] <= N_LIKELIEST:
        return _pick_of_all(p_BV, top_p, u_B)
    token_B, is_certain_B = _pick_of_likeliest(p_BV, top_p, u_B)
    [rest] = torch.nonzero(~is_certain_B, as_tuple=True)
    if len(rest):
        token_B[rest] = _pick_of_all(p_BV[rest], top_p, u_B[rest])
    return token_B


def _pick_of_all(p_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    p_BV, token_BV = p_BV.sort(stable=True, dim=-1, descending=True)
    cumulative_BV = p_BV.cumsum(-1)
    n_kept_B1 = ((cumulative_BV - p_BV) < top_p).sum(-1, keepdim=True)
    mass_B1 = cumulative_BV.gather(1, n_kept_B1 - 1)
    rank_B1 = torch.searchsorted(cumulative_BV, u_B[:, None] * mass_B1, right=True)
    return token_BV.gather(1, rank_B1.minimum(n_kept_B1 - 1))[:, 0]


def _pick_of_likeliest(p_BV: Tensor, top_p: float, u_B: Tensor) -> tuple[Tensor, Tensor]:
    """Sample among the likeliest tokens only, and flag the draws for which that is exact: (B,) each."""
    p_BK, token_BK = p_BV.topk(N_LIKELIEST, sorted=False)
    token_BK, order_BK = token_BK.sort()  # of equally likely tokens, the first comes first
    p_BK, by_p_BK = p_BK.gather(1, order_BK).sort(stable=True, descending=True)
    cumulative_BK = p_BK.cumsum(-1)
    n_kept_B1 = ((cumulative_BK - p_BK) < top_p).sum(-1, keepdim=True)
    keeps_all_B1 = n_kept_B1 == N_LIKELIEST
    mass_B1 = torch.where(keeps_all_B1, p_BV.sum(-1, keepdim=True), cumulative_BK.gather(1, n_kept_B1 - 1))
    rank_B1 = torch.searchsorted(cumulative_BK, u_B[:, None] * mass_B1, right=True).minimum(n_kept_B1 - 1)
    is_above_B1 = p_BK.gather(1, rank_B1) > p_BK[:, -1:]  # others may be as likely as the last one
    is_certain_B1 = is_above_B1 & (~keeps_all_B1 | (top_p >= 1))
    return token_BK.gather(1, by_p_BK.gather(1, rank_B1))[:, 0], is_certain_B1[:, 0]
