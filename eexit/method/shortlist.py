"""Reading a layer for a few tokens only, those of a shortlist, which costs a small part of a product with the head.

Rules may decide by such a reading (as in SpecEE, Xu et al. 2025, whose shortlist comes from a draft model). Here a
token's shortlist has its likeliest tokens at the first exitable layer, which is read with the whole head.

Shapes: B rows, K tokens of the shortlist, H width of what the head takes, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from eexit.cpu.packed_linear import plain_bias, plain_weight
from eexit.errors import UsageError
from eexit.method.rules import Distribution
from eexit.model.decoder import Decoder
from eexit.model.layerwise import graft


@dataclass(frozen=True)
class ShortReading:
    """The distributions over shortlists, for all rows that were read."""

    likeliest_B: Tensor
    top_p_B2: Tensor
    entropy_B: Tensor

    def distribution(self, row_B: Tensor | slice) -> Distribution:
        """What rules look at, of these rows."""
        return Distribution(self.top_p_B2[row_B], self.entropy_B[row_B])

    @classmethod
    def joined(cls, parts: Sequence["ShortReading"]) -> "ShortReading":
        """The readings of several groups of rows, one group after the other."""
        return cls(*(torch.cat([getattr(part, column.name) for part in parts]) for column in fields(cls)))


class Shortlist:
    """A model's head for `n_tokens` tokens of each row, with its scaling and soft-cap.

    Raises `UsageError` if the model's head can't be used so.
    """

    def __init__(self, decoder: Decoder, n_tokens: int):
        self.n_tokens = min(n_tokens, decoder.vocabulary)
        output = decoder.head_alone.get_output_embeddings()
        path = next((name for name, module in decoder.head_alone.named_modules() if module is output), None)
        if output is None or path is None:
            raise UsageError("--decide-on shortlist can't be used with this model: its head has no output embeddings")
        self._weight_VH, self._bias_V = plain_weight(output), plain_bias(output)
        self._head: Any = graft(decoder.head_alone, path, self._product)

    def logits(self, ready_BH: Tensor, token_BK: Tensor) -> Tensor:
        """The logits (B, K) of each row's own tokens."""
        self._token_BK = token_BK
        logits_B1K: Tensor = self._head(inputs_embeds=ready_BH[:, None], use_cache=False).logits
        return logits_B1K[:, 0]

    def _product(self, ready_B1H: Tensor) -> Tensor:
        weight_BKH = self._weight_VH.index_select(0, self._token_BK.flatten()).unflatten(0, self._token_BK.shape)
        logits_B1K: Tensor = ready_B1H @ weight_BKH.mT
        if self._bias_V is not None:
            logits_B1K = logits_B1K + self._bias_V[self._token_BK][:, None]
        return logits_B1K

    def read(self, ready_BH: Tensor, token_BK: Tensor) -> ShortReading:
        """Read rows from what would go into the head, each for its own tokens."""
        logits_BK = self.logits(ready_BH, token_BK)
        log_p_BK = logits_BK.log_softmax(-1, dtype=torch.float32)
        top_B2 = log_p_BK.topk(2)
        likeliest_B = token_BK.gather(1, top_B2.indices[:, :1])[:, 0]
        return ShortReading(likeliest_B, top_B2.values.exp(), -(log_p_BK.exp() * log_p_BK).sum(-1))
