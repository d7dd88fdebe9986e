"""Divergence of each exitable layer's distribution over the next token from the final layer's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from eexit.cpu import kernels
from eexit.cpu.topk import argmax_logprob, top_tokens

LOG_P_BYTES: Final = 1 << 20  # without the compiled kernel: of fp32 log-probabilities that are made at a time


@dataclass(frozen=True)
class Divergence:
    """Comparison of the exitable layers' distributions with the final one, for each of B tokens; nats, fp32."""

    kl_BE: Tensor
    jsd_BE: Tensor  # Jensen–Shannon divergence, at most log 2
    entropy_B: Tensor  # of the final distribution
    final_lse_B: Tensor  # log-sum-exp of the final logits
    top_token_BX: Tensor
    likeliest_log_p_BX: Tensor
    top_token_BXK: Tensor  # likeliest first
    top_prob_BXK: Tensor

    @classmethod
    def from_parts(cls, parts: Sequence["Divergence"]) -> "Divergence":
        """Join divergences along their tokens."""
        return cls(*(joined([getattr(part, each.name) for part in parts]) for each in fields(cls)))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Join parts along their first axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def compare(logits_BXV: Tensor, top_k: int) -> Divergence:
    """Compare layers' logits with the last layer's, by the compiled kernel if there is one."""
    if compared := kernels.divergence(logits_BXV, top_k):
        return Divergence(*compared)
    is_on_gpu = logits_BXV.device.type != "cpu"
    size = len(logits_BXV) if is_on_gpu else max(1, LOG_P_BYTES // logits_BXV[0].numel() // 4)
    return Divergence.from_parts([divergence_from_final(some_BXV, top_k) for some_BXV in logits_BXV.split(size)])


def divergence_from_final(logits_BXV: Tensor, top_k: int = 0) -> Divergence:
    """Compare the distributions of exitable layers with that of the final layer, which is last.

    KL(final || exit) = Σ_v p_final·(log p_final − log p_exit) ≥ 0, as the difference of two expectations, from
    log-softmax. JSD = (KL(final || m) + KL(exit || m)) / 2 with m = (p_final + p_exit) / 2.
    """
    log_p_BXV = torch.log_softmax(logits_BXV, -1, dtype=torch.float32)
    p_final_BV = log_p_BXV[:, -1].exp()
    expected_BX = torch.bmm(log_p_BXV, p_final_BV[:, :, None])[:, :, 0]
    top_token_BXK, top_log_p_BXK = top_tokens(log_p_BXV, top_k)
    top_token_BX, likeliest_log_p_BX = argmax_logprob(log_p_BXV)
    kl_BE = jsd_BE = expected_BX[:, :-1]
    if kl_BE.shape[1]:  # an operator on an empty tensor costs as much
        kl_BE = (expected_BX[:, -1:] - kl_BE).clamp_min(0)
        jsd_BE = _jensen_shannon(log_p_BXV[:, :-1], log_p_BXV[:, -1:])
    return Divergence(
        kl_BE=kl_BE, jsd_BE=jsd_BE, entropy_B=-expected_BX[:, -1],
        final_lse_B=logits_BXV[:, -1, 0].float() - log_p_BXV[:, -1, 0],
        top_token_BX=top_token_BX, likeliest_log_p_BX=likeliest_log_p_BX,
        top_token_BXK=top_token_BXK, top_prob_BXK=top_log_p_BXK.exp(),
    )  # fmt: skip


def _jensen_shannon(log_p_BEV: Tensor, log_q_B1V: Tensor) -> Tensor:
    """Return Jensen–Shannon divergences, as sums of terms that are not negative, so that nothing cancels."""
    log_m_BEV = torch.logaddexp(log_p_BEV, log_q_B1V) - math.log(2)
    terms_BEV = log_p_BEV.exp() * (log_p_BEV - log_m_BEV) + log_q_B1V.exp() * (log_q_B1V - log_m_BEV)
    return terms_BEV.sum(-1).clamp_min(0) / 2
