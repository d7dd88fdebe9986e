"""Uniform draws from counter-based streams (Philox, Salmon et al. 2011), so that no run depends on its neighbours.

A draw depends on the seed, the prompt's tokens and the position alone, so that all configurations of a prompt are
compared under common random numbers.
"""

import hashlib

import numpy as np
from numpy.random import Generator, Philox


def exit_draws(seed: int, prompt_token_ids: list[int], n_tokens: int) -> np.ndarray:
    """The fp32 uniforms in [0, 1) that choose exits, (n_tokens,); a longer stream starts with the shorter ones."""
    return _stream("exit", seed, prompt_token_ids).random(n_tokens, dtype=np.float32)


def sampling_draws(seed: int, prompt_token_ids: list[int], n_tokens: int) -> np.ndarray:
    """The fp32 uniforms in [0, 1) that sample tokens, (n_tokens,), independent of `exit_draws`."""
    return _stream("sample", seed, prompt_token_ids).random(n_tokens, dtype=np.float32)


def _stream(purpose: str, seed: int, prompt_token_ids: list[int]) -> Generator:
    key = hashlib.blake2b(repr((purpose, seed, prompt_token_ids)).encode(), digest_size=16).digest()
    return Generator(Philox(key=int.from_bytes(key, "little")))
