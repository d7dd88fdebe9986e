"""Reading a layer through a screen: all logits roughly, in a few dimensions, and those of the best tokens exactly.

The head's weights W and the second moment C of what goes into it give the sketch of rank R with the least expected
squared error of the logits: of W·C^½, the R directions in which it is largest. A rough logit costs R multiply-adds then
instead of H (SVD-softmax, Shim et al. 2017, whose sketch takes no account of C). Rules look at the exact logits of the
best tokens alone; the token itself is read from the whole head.

Shapes: B rows, K tokens that are let through, R rank, H width of what the head takes, V vocabulary.
"""

from typing import Any, Final

import torch
from torch import Tensor

from eexit.cpu.packed_linear import plain_bias, plain_weight
from eexit.cpu.topk import top_tokens
from eexit.errors import UsageError
from eexit.method.affine import in_float64
from eexit.method.screen_size import ScreenSize
from eexit.model.layers import Decoder
from eexit.model.structure import replace_module

ROWS: Final = 32  # at a time: each needs the weights of its own tokens
BLOCK: Final = 8  # tokens, of which only the best is sorted at first
LEAST: Final = 1e-6  # of a direction's share in C: what streams hardly ever have is not divided by


class Screen:
    """A model's head behind a sketch of it, given the second moment of what goes into it, (H, H).

    Raises `UsageError` if the model's head can't be used so, or the size does not fit it.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, size: ScreenSize, moment_HH: Tensor):
        output = decoder.head_alone.get_output_embeddings()
        path = next((name for name, module in decoder.head_alone.named_modules() if module is output), None)
        if output is None or path is None:
            raise UsageError("--screen screen can't be used with this model: its head has no output embeddings")
        self.n_tokens, self._weight_VH, self.bias_V = size.n_tokens, plain_weight(output), plain_bias(output)
        self._head: Any = replace_module(
            decoder.head_alone, path, self._product
        )  # with the model's scaling and soft-cap
        weight_VH = self._weight_VH.float()
        n_tokens, width = weight_VH.shape
        if size.rank > width:
            raise UsageError(f"{size}: the rank is above the width of what the head takes, {width}")
        if size.n_tokens > n_tokens:
            raise UsageError(f"{size}: the model has only {n_tokens} tokens")
        share_H, direction_HH = torch.linalg.eigh(in_float64(moment_HH))
        root_H = share_H.clamp(min=float(share_H.max()) * LEAST).sqrt()
        whitening_HH, colouring_HH = (direction_HH * scale_H @ direction_HH.T for scale_H in (1 / root_H, root_H))
        gram_HH = colouring_HH @ in_float64(weight_VH.T @ weight_VH) @ colouring_HH
        largest_HR = torch.linalg.eigh(gram_HH).eigenvectors[:, -size.rank :]
        dtype, device = self._weight_VH.dtype, self._weight_VH.device
        self.down_RH = (largest_HR.T @ whitening_HH).to(dtype).to(device)
        self.up_VR = (weight_VH @ (colouring_HH @ largest_HR).float().to(device)).to(dtype)

    def tokens(self, ready_BH: Tensor) -> Tensor:
        """The tokens of each row that the screen lets through, (B, K)."""
        rough_BV = (ready_BH @ self.down_RH.T) @ self.up_VR.T
        if self.bias_V is not None:
            rough_BV = rough_BV + self.bias_V
        return top_tokens(rough_BV, self.n_tokens, BLOCK)[0]

    def read(self, ready_BH: Tensor) -> dict[str, Tensor]:
        """Return values of `LayerView`, of the distributions over the tokens that the screen selects."""
        parts = zip(*(self._read(part_BH) for part_BH in ready_BH.split(ROWS)), strict=True)
        return dict(zip(("top_token", "top2_prob", "entropy"), map(torch.cat, parts), strict=True))

    def _read(self, ready_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._token_BK = self.tokens(ready_BH)
        logits_BK = self._head(inputs_embeds=ready_BH[:, None], use_cache=False).logits[:, 0]
        log_p_BK = logits_BK.log_softmax(-1, dtype=torch.float32)
        top_B2 = log_p_BK.topk(2)
        likeliest_B = self._token_BK.gather(1, top_B2.indices[:, :1])[:, 0]
        return likeliest_B, top_B2.values.exp(), -(log_p_BK.exp() * log_p_BK).sum(-1)

    def _product(self, ready_B1H: Tensor) -> Tensor:
        """The product with the rows of the head's weights that belong to the tokens let through, (B, 1, K)."""
        weight_BKH = self._weight_VH.index_select(0, self._token_BK.flatten()).unflatten(0, self._token_BK.shape)
        logits_B1K: Tensor = ready_B1H @ weight_BKH.mT
        if self.bias_V is not None:
            logits_B1K = logits_B1K + self.bias_V[self._token_BK][:, None]
        return logits_B1K
