"""Tokens from logits, greedy or sampled.

Shapes: B rows, V vocabulary.
"""

from typing import Final

import torch
from torch import Tensor

N_LIKELIEST: Final = 256  # tokens that a pick is looked for among first


def pick_tokens(logits_BV: Tensor, temperature: float, top_p: float, u_B: Tensor) -> Tensor:
    """Pick the likeliest token of each row, (B,), of equal ones the first; with a temperature, sample it.

    Sampling inverts the cumulative distribution, likeliest token first, with the uniforms `u_B`.

    `top_p` keeps the smallest set of likeliest tokens with at least that much probability (nucleus sampling,
    Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    p_BV = torch.softmax(logits_BV.float() / temperature, -1)
    if p_BV.device.type != "cpu" or p_BV.shape[1] <= N_LIKELIEST:
        return _pick_of_all(p_BV, top_p, u_B)
    token_B, is_known_B = _pick_of_likeliest(p_BV, top_p, u_B)
    [left] = torch.nonzero(~is_known_B, as_tuple=True)
    if len(left):
        token_B[left] = _pick_of_all(p_BV[left], top_p, u_B[left])
    return token_B


def _pick_of_all(p_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    p_BV, token_BV = p_BV.sort(stable=True, dim=-1, descending=True)
    cumulative_BV = p_BV.cumsum(-1)
    kept_B = ((cumulative_BV - p_BV) < top_p).sum(-1, keepdim=True)
    kept_mass_B = cumulative_BV.gather(1, kept_B - 1)
    rank_B = torch.searchsorted(cumulative_BV, u_B[:, None] * kept_mass_B, right=True)
    return token_BV.gather(1, rank_B.minimum(kept_B - 1))[:, 0]


def _pick_of_likeliest(p_BV: Tensor, top_p: float, u_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pick among the likeliest tokens, and flag the rows whose pick is certainly that of `_pick_of_all`: (B,) each.

    A CPU takes longer to sort a vocabulary than the model takes for a step.
    """
    p_BK, token_BK = p_BV.topk(N_LIKELIEST, sorted=False)
    token_BK, order_BK = token_BK.sort()  # of equally likely tokens, the first comes first
    p_BK, by_p_BK = p_BK.gather(1, order_BK).sort(stable=True, descending=True)
    cumulative_BK = p_BK.cumsum(-1)
    kept_B1 = ((cumulative_BK - p_BK) < top_p).sum(-1, keepdim=True)
    all_kept_B1 = kept_B1 == N_LIKELIEST
    mass_B1 = torch.where(all_kept_B1, p_BV.sum(-1, keepdim=True), cumulative_BK.gather(1, kept_B1 - 1))
    rank_B1 = torch.searchsorted(cumulative_BK, u_B[:, None] * mass_B1, right=True).minimum(kept_B1 - 1)
    is_above_B1 = p_BK.gather(1, rank_B1) > p_BK[:, -1:]  # others may be as likely as the last one
    is_known_B1 = is_above_B1 & (~all_kept_B1 | (top_p >= 1))
    return token_BK.gather(1, by_p_BK.gather(1, rank_B1))[:, 0], is_known_B1[:, 0]
