"""Tokens are sampled likeliest first, as in the definition of nucleus sampling, without sorting the vocabulary."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from eexit.decode.sampling import N_LIKELIEST, pick_tokens

VOCABULARY = 4 * N_LIKELIEST


def pick_one(logits_V: Tensor, temperature: float, top_p: float, u: float) -> int:
    """Return the token of the definition, in double precision."""
    p_V = torch.softmax(logits_V.double() / temperature, -1).tolist()
    order = sorted(range(len(p_V)), key=lambda token: (-p_V[token], token))
    mass_V = [*accumulate(p_V[token] for token in order)]  # up to each token, likeliest first
    nucleus = next((mass for mass in mass_V if mass >= top_p), mass_V[-1])
    return next(token for token, mass in zip(order, mass_V, strict=True) if u * nucleus < mass)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])  # from tokens hardly ever among the likeliest to the contrary
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # in which many tokens are equally likely
def test_a_token_is_that_of_the_definition(spread: float, top_p: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits_BV = (spread * torch.randn(100, VOCABULARY, generator=generator)).to(dtype)
    u_B = torch.rand(100, generator=generator)
    picked = pick_tokens(logits_BV, 0.7, top_p, u_B).tolist()
    expected = [pick_one(logits_V, 0.7, top_p, u) for logits_V, u in zip(logits_BV, u_B.tolist(), strict=True)]
    differ = [at for at in range(100) if picked[at] != expected[at]]
    assert len(differ) <= 1, "only where a uniform falls between two tokens, but for rounding"
    assert all(abs(logits_BV[at, picked[at]] - logits_BV[at, expected[at]]) < 1e-2 for at in differ)
