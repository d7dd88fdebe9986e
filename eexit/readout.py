"""From residual streams to distributions and tokens.

Vocabulary-sized temporaries live for a few rows at a time: their memory does not grow with rows or exits.

Shapes: B rows, E exitable layers, W width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eexit.anatomy import Decoder
from eexit.exits import FinalDistribution

CHUNK_BYTES = 64 << 20
TEMPORARIES = 4  # fp32 (rows, V) tensors alive at once


@dataclass(frozen=True)
class Reading:
    """The full-depth model at one position of each row; KL and entropy in nats, fp32."""

    final_logits_BV: Tensor
    final_lse_B: Tensor
    final_token_B: Tensor
    entropy_B: Tensor
    kl_BE: Tensor

    def logprob(self, token_B: Tensor) -> Tensor:
        """Log-probability of tokens under the final distribution, nats, (B,)."""
        return self.final_logits_BV.gather(1, token_B[:, None])[:, 0].float() - self.final_lse_B


def read_layers(decoder: Decoder, exit_states: Sequence[Tensor], final_BW: Tensor, readout: str) -> Reading:
    """Read the final layer and every exitable one (E tensors (B, W), in order), and how far apart they are."""
    chunks = []
    for rows in _chunks(final_BW.shape[0], decoder.vocabulary):
        logits_BV = decoder.read(final_BW[rows])
        final = FinalDistribution.of(logits_BV)
        kl_BE = torch.stack([final.kl_to(decoder.read(exit_BW[rows], readout == "lens")) for exit_BW in exit_states], 1)
        chunks.append((logits_BV, final.lse_B, logits_BV.argmax(-1), final.entropy(), kl_BE))
    return Reading(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def read_tokens(
    decoder: Decoder, hidden_BW: Tensor, lens_B: Tensor, temperature: float, top_p: float, u_B: Tensor
) -> Tensor:
    """The next tokens (B,) from residual streams, those of `lens_B` through the final norm."""
    token_B = torch.empty(hidden_BW.shape[0], dtype=torch.long, device=hidden_BW.device)
    for rows in _chunks(hidden_BW.shape[0], decoder.vocabulary):
        for norm in (True, False):
            picked = rows[lens_B[rows] == norm]
            if len(picked):
                token_B[picked] = pick_tokens(decoder.read(hidden_BW[picked], norm), temperature, top_p, u_B[picked])
    return token_B


def pick_tokens(logits_BV: Tensor, temperature: float, top_p: float, u_B: Tensor) -> Tensor:
    """The likeliest token, or with a temperature the one at `u_B` of the cumulative distribution, likeliest first.

    `top_p` keeps the fewest likeliest tokens that hold at least that much probability (nucleus sampling,
    Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    p_BV, token_BV = torch.softmax(logits_BV.float() / temperature, -1).sort(stable=True, dim=-1, descending=True)
    cumulative_BV = p_BV.cumsum(-1)
    kept_B = ((cumulative_BV - p_BV) < top_p).sum(-1, keepdim=True)
    kept_mass_B = cumulative_BV.gather(1, kept_B - 1)
    rank_B = torch.searchsorted(cumulative_BV, u_B[:, None] * kept_mass_B, right=True)
    return token_BV.gather(1, rank_B.minimum(kept_B - 1))[:, 0]


def _chunks(n_rows: int, vocabulary: int) -> list[Tensor]:
    size = max(1, CHUNK_BYTES // (TEMPORARIES * 4 * vocabulary))
    return list(torch.arange(n_rows).split(size))
