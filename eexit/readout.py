"""From residual streams to distributions and tokens.

Vocabulary-sized temporaries live for a few rows at a time: their memory does not grow with rows or exits.

Shapes: B rows, E exitable layers, X = E + 1 with the final layer last, W width, V vocabulary.
"""

from dataclasses import dataclass, fields
from typing import Final, TypeVar

import torch
from torch import Tensor

from eexit.anatomy import Decoder
from eexit.exits import Divergence, divergence_from_final

LOGITS_BYTES: Final = 64 << 20  # logits of as many rows at a time are made by one product
CACHE_BYTES: Final = 1 << 20  # on a CPU, fp32 log-probabilities of as many rows at a time are made from them

Part = TypeVar("Part", bound=Divergence)


@dataclass(frozen=True)
class Reading(Divergence):
    """The full-depth model at one position of each row, and how far from it the exitable layers are."""

    final_logits_BV: Tensor

    def logprob(self, token_B: Tensor) -> Tensor:
        """Log-probability of tokens under the final distribution, nats, (B,)."""
        return self.final_logits_BV.gather(1, token_B[:, None])[:, 0].float() - self.final_lse_B


def read_layers(decoder: Decoder, states_BXW: Tensor, readout: str) -> Reading:
    """Read the exitable layers' residual streams and the final one's, which is last."""
    n_states = states_BXW.shape[1]
    size = max(1, LOGITS_BYTES // (n_states * decoder.vocabulary * decoder.dtype.itemsize))
    return _joined([_read_chunk(decoder, chunk_BXW, readout) for chunk_BXW in states_BXW.split(size)])


def _read_chunk(decoder: Decoder, states_BXW: Tensor, readout: str) -> Reading:
    n_rows, n_states, _ = states_BXW.shape
    if readout == "lens":
        logits_BXV = decoder.read(states_BXW.flatten(0, 1)).view(n_rows, n_states, -1)
    else:
        exits = decoder.read(states_BXW[:, :-1].flatten(0, 1), norm=False).view(n_rows, n_states - 1, -1)
        logits_BXV = torch.cat([exits, decoder.read(states_BXW[:, -1])[:, None]], 1)
    size = max(1, CACHE_BYTES // logits_BXV[0].numel() // 4) if logits_BXV.device.type == "cpu" else n_rows
    compared = [divergence_from_final(rows_BXV) for rows_BXV in logits_BXV.split(size)]
    return Reading(**vars(_joined(compared)), final_logits_BV=logits_BXV[:, -1].clone())


def _joined(parts: list[Part]) -> Part:
    """Parts over rows, as one."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(kind)))


def read_tokens(
    decoder: Decoder, hidden_BW: Tensor, lens_B: Tensor, temperature: float, top_p: float, u_B: Tensor
) -> Tensor:
    """The next tokens (B,) from residual streams, those of `lens_B` through the final norm."""
    token_B = torch.empty(hidden_BW.shape[0], dtype=torch.long, device=hidden_BW.device)
    size = max(1, LOGITS_BYTES // (4 * decoder.vocabulary))
    for norm in (True, False):
        for rows in (lens_B == norm).nonzero()[:, 0].split(size):
            token_B[rows] = pick_tokens(decoder.read(hidden_BW[rows], norm), temperature, top_p, u_B[rows])
    return token_B


def pick_tokens(logits_BV: Tensor, temperature: float, top_p: float, u_B: Tensor) -> Tensor:
    """The likeliest token, or with a temperature the one at `u_B` of the cumulative distribution, likeliest first.

    `top_p` keeps the fewest likeliest tokens that hold at least that much probability (nucleus sampling,
    Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    p_BV = torch.softmax(logits_BV.float() / temperature, -1)
    p_BV, token_BV = p_BV.sort(stable=True, dim=-1, descending=True)
    cumulative_BV = p_BV.cumsum(-1)
    kept_B = ((cumulative_BV - p_BV) < top_p).sum(-1, keepdim=True)
    kept_mass_B = cumulative_BV.gather(1, kept_B - 1)
    rank_B = torch.searchsorted(cumulative_BV, u_B[:, None] * kept_mass_B, right=True)
    return token_BV.gather(1, rank_B.minimum(kept_B - 1))[:, 0]
