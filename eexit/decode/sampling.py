"""Tokens from logits: greedy, sampled, and sampled where a draft was made before.

Shapes: B rows, D of them with a draft, V vocabulary.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Drafted:
    """Tokens that were drafted, by sampling from other distributions, and a uniform draw for each to verify it with."""

    row_D: Tensor  # of B
    token_D: Tensor
    logits_DV: Tensor
    u_D: Tensor
    temperature: float
    top_p: float

    def of(self, rows: slice) -> "Drafted":
        """The drafts of these rows, which become rows 0 to B − 1."""
        within_D = (self.row_D >= rows.start) & (self.row_D < rows.stop)
        row_D, token_D, u_D = self.row_D[within_D] - rows.start, self.token_D[within_D], self.u_D[within_D]
        return Drafted(row_D, token_D, self.logits_DV[within_D], u_D, self.temperature, self.top_p)

    def verified(self, logits_BV: Tensor, picked_B: Tensor) -> Tensor:
        """Return tokens of the full-depth distributions, (B,): `picked_B` where there is no draft."""
        p_DV = distribution(logits_BV[self.row_D], self.temperature, self.top_p)
        q_DV = distribution(self.logits_DV, self.temperature, self.top_p)
        return picked_B.index_copy(0, self.row_D, accept_or_draw(p_DV, q_DV, self.token_D, self.u_D))


def accept_or_draw(p_BV: Tensor, q_BV: Tensor, drafted_B: Tensor, u_B: Tensor) -> Tensor:
    """Make tokens that are distributed as p, (B,), from tokens drafted from q.

    A draft d is accepted with chance min(1, p(d) / q(d)); otherwise a token is drawn from the normalised (p − q)₊,
    which is never d (Leviathan et al. 2023). One uniform serves both: among those that reject a draft, it is uniform
    above the chance to accept it.
    """
    accept_B = (p_BV.gather(1, drafted_B[:, None]) / q_BV.gather(1, drafted_B[:, None]))[:, 0]
    rest_BV = (p_BV - q_BV).clamp_min(0).cumsum(-1)
    u_rest_B = ((u_B - accept_B) / (1 - accept_B)).clamp(0, 1)
    drawn_B = torch.searchsorted(rest_BV, u_rest_B[:, None] * rest_BV[:, -1:], right=True)[:, 0]
    last_B = (rest_BV < rest_BV[:, -1:]).sum(-1)  # that has any probability
    return torch.where(u_B < accept_B, drafted_B, drawn_B.minimum(last_B))


def distribution(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the probabilities, (B, V) fp32, with which `pick_tokens` picks tokens; the temperature is above 0."""
    p_BV = torch.softmax(logits_BV.float() / temperature, -1)
    sorted_BV, token_BV = p_BV.sort(stable=True, dim=-1, descending=True)
    cumulative_BV = sorted_BV.cumsum(-1)
    kept_BV = sorted_BV.masked_fill(cumulative_BV - sorted_BV >= top_p, 0)
    return torch.zeros_like(p_BV).scatter_(1, token_BV, kept_BV / kept_BV.sum(-1, keepdim=True))
