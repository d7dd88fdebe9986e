"""Stick-breaking: from exit probabilities by layer to an exit, a distribution, and expectations over it.

Uniform draws come from counter-based streams (Philox, Salmon et al. 2011), keyed by seed, prompt tokens and position
alone. So a run is independent of its neighbours, and all configurations of a prompt have common random numbers.

For online rules, `eexit.decode.exit_visitor` follows the same formula layer by layer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor
from torch.nn.functional import pad

from eexit.method.rules import ExitChances


def exit_probabilities(chances: ExitChances) -> Tensor:
    """Return P(e_i) = s_i·Π_{j<i}(1−s_j) and, last, P(final) = Π_j(1−s_j), (B, X); each row sums to 1."""
    passed_BE = chances.pass_BE.cumprod(-1)
    reached_BE = torch.cat([torch.ones_like(passed_BE[:, :1]), passed_BE[:, :-1]], dim=-1)
    return torch.cat([chances.exit_BE * reached_BE, passed_BE[:, -1:]], dim=-1)


def choose_exits(chances: ExitChances, u_B: Tensor) -> Tensor:
    """Return the first exitable layer i with 1 − Π_{j≤i}(1−s_j) > u, as an index into X; E for the final layer.

    For the same u, smaller probabilities s never give an earlier exit.
    """
    return (1 - chances.pass_BE.cumprod(-1) <= u_B[:, None]).sum(-1)


@dataclass(frozen=True)
class ExpectedExits:
    """Means over draws and tokens of the predictions at exits; KL in nats."""

    share_X: Tensor  # of the exits
    kl: float
    agreement: float  # with the final layer's likeliest token
    same: float  # the probability that all tokens agree with it, if exits are drawn token by token


def expected_exits(prob_NX: Tensor, kl_NE: Tensor, agrees_NE: Tensor) -> ExpectedExits:
    """Return the mean exit distribution, KL and agreement with the final layer, given each token's exit distribution.

    At the final layer, the KL is 0 nats and the agreement is certain.
    """
    prob_NX = prob_NX.double()
    kl_NX, agrees_NX = pad(kl_NE, (0, 1)).double(), pad(agrees_NE.double(), (0, 1), value=1.0)
    kl_N, agreement_N = ((prob_NX * value_NX).sum(1) for value_NX in (kl_NX, agrees_NX))
    return ExpectedExits(prob_NX.mean(0), kl_N.mean().item(), agreement_N.mean().item(), agreement_N.prod().item())


def uniform_draws(
    purpose: Literal["exit", "sample", "prompt"], seed: int, prompt_token_ids: Sequence[int], n_tokens: int
) -> np.ndarray:
    """Return fp32 uniforms in [0, 1), (n_tokens,); a longer stream starts with a shorter one.

    They choose exits of generated tokens, sample tokens, or choose exits of the prompt's tokens but the last.
    """
    text = repr((purpose, seed, list(prompt_token_ids)))
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return Generator(Philox(key=int.from_bytes(key, "little"))).random(n_tokens, dtype=np.float32)
