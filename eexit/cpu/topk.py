"""Top tokens of a vocabulary, found block by block: several times faster on a CPU than `topk` and `argmax`."""

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 256  # tokens


def top_tokens(log_p_BXV: Tensor, top_k: int, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return the `top_k` likeliest tokens and their log-probabilities, likeliest first; logits do as well.

    They lie in the `top_k` blocks with the highest maxima, so that nothing else is sorted. A block's tokens lie apart
    by the number of blocks, for which maxima are found fastest. It pays with many more blocks than `top_k`.
    """
    vocabulary = log_p_BXV.shape[-1]
    n_blocks = vocabulary // block
    if top_k == 0 or top_k >= n_blocks or log_p_BXV.device.type != "cpu":
        top = log_p_BXV.topk(top_k)
        return top.indices, top.values
    blocks = log_p_BXV[..., : n_blocks * block].unflatten(-1, (block, n_blocks))
    which = blocks.amax(-2).topk(top_k, sorted=False).indices
    token = (which[..., None, :] + n_blocks * torch.arange(block)[:, None]).flatten(-2)
    rest = torch.arange(n_blocks * block, vocabulary).expand(*token.shape[:-1], -1)
    token = torch.cat([token, rest], -1)
    top = log_p_BXV.gather(-1, token).topk(top_k)
    return token.gather(-1, top.indices), top.values


def argmax_logprob(log_p_BXV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest token, the first of equal ones as in `argmax`, and its log-probability, (B, X) each."""
    n_blocks = log_p_BXV.shape[-1] // BLOCK
    if n_blocks == 0 or log_p_BXV.device.type != "cpu":
        highest = log_p_BXV.max(-1)
        return highest.indices, highest.values
    blocks, rest = log_p_BXV.tensor_split([n_blocks * BLOCK], -1)
    maxima = blocks.unflatten(-1, (n_blocks, BLOCK)).amax(-1)
    token = maxima.argmax(-1, keepdim=True) * BLOCK + torch.arange(BLOCK)
    token = torch.cat([token, torch.arange(n_blocks * BLOCK, log_p_BXV.shape[-1]).expand(*rest.shape)], -1)
    token = token.gather(-1, log_p_BXV.gather(-1, token).argmax(-1, keepdim=True))
    return token[..., 0], log_p_BXV.gather(-1, token)[..., 0]
