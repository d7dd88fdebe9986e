"""Screen of the LM head: all logits roughly, from a low-rank sketch, and the logits of the best tokens exactly.

With the head's weights W and the second moment C of its inputs, the sketch of rank R with the least expected squared
error of the logits has the R directions in which W·C^½ is largest. A rough logit costs R multiply-adds in place of F
(SVD-softmax, Shim et al. 2017, whose sketch leaves C out). Rules get the exact logits of the best tokens alone;
the next token is read from the whole head.

Shapes: K tokens that the screen selects, R rank.
"""

from typing import Any, Final

import torch
from torch import Tensor

from eexit.cpu.packed_linear import plain_bias, plain_weight
from eexit.cpu.topk import top_tokens
from eexit.errors import UsageError
from eexit.method.linear_map import in_float64
from eexit.method.screen_size import ScreenSize
from eexit.model.layers import Decoder
from eexit.model.structure import replace_module

ROWS: Final = 32  # read at a time: each needs the weights of its own tokens
BLOCK: Final = 8  # tokens, of which only the best is sorted at first
LEAST: Final = 1e-6  # of a direction's share in C: directions that inputs hardly have are not divided by less


class Screen:
    """A model's LM head behind a sketch of it, which follows from the second moment of the head's inputs, (F, F).

    Raises `UsageError` if the model's head has no embeddings, or the size does not fit it.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, size: ScreenSize, moment_FF: Tensor):
        output = decoder.head_alone.get_output_embeddings()
        path = next((name for name, module in decoder.head_alone.named_modules() if module is output), None)
        if output is None or path is None:
            raise UsageError("--screen can't be used with this model: its head has no output embeddings")
        self.n_tokens, self._weight_VF, self.bias_V = size.n_tokens, plain_weight(output), plain_bias(output)
        # With the model's scaling and soft-cap.
        self._head: Any = replace_module(decoder.head_alone, path, self._exact_logits)
        weight_VF = self._weight_VF.float()
        n_tokens, width = weight_VF.shape
        if size.rank > width:
            raise UsageError(f"{size}: the rank is above the width of what the head takes, {width}")
        if size.n_tokens > n_tokens:
            raise UsageError(f"{size}: the model has only {n_tokens} tokens")
        share_F, direction_FF = torch.linalg.eigh(in_float64(moment_FF))
        root_F = share_F.clamp(min=float(share_F.max()) * LEAST).sqrt()
        whitening_FF, colouring_FF = (direction_FF * scale_F @ direction_FF.T for scale_F in (1 / root_F, root_F))
        gram_FF = colouring_FF @ in_float64(weight_VF.T @ weight_VF) @ colouring_FF
        largest_FR = torch.linalg.eigh(gram_FF).eigenvectors[:, -size.rank :]
        dtype, device = self._weight_VF.dtype, self._weight_VF.device
        self.down_RF = (largest_FR.T @ whitening_FF).to(dtype).to(device)
        self.up_VR = (weight_VF @ (colouring_FF @ largest_FR).float().to(device)).to(dtype)

    def tokens(self, head_input_NF: Tensor) -> Tensor:
        """Return the tokens that the screen selects for each head input, (N, K)."""
        rough_NV = (head_input_NF @ self.down_RF.T) @ self.up_VR.T
        if self.bias_V is not None:
            rough_NV = rough_NV + self.bias_V
        return top_tokens(rough_NV, self.n_tokens, BLOCK)[0]

    def read(self, head_input_NF: Tensor) -> dict[str, Tensor]:
        """Return values of `LayerView` from the distributions over the tokens that the screen selects."""
        parts = zip(*map(self._read, head_input_NF.split(ROWS)), strict=True)
        return dict(zip(("top_token", "top2_prob", "entropy"), map(torch.cat, parts), strict=True))

    def _read(self, head_input_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._token_NK = self.tokens(head_input_NF)
        logits_NK = self._head(inputs_embeds=head_input_NF[:, None], use_cache=False).logits[:, 0]
        log_p_NK = logits_NK.log_softmax(-1, dtype=torch.float32)
        top_N2 = log_p_NK.topk(2)
        top_token_N = self._token_NK.gather(1, top_N2.indices[:, :1])[:, 0]
        return top_token_N, top_N2.values.exp(), -(log_p_NK.exp() * log_p_NK).sum(-1)

    def _exact_logits(self, head_input_N1F: Tensor) -> Tensor:
        """Return the products with the head's weights of the selected tokens, (N, 1, K)."""
        weight_NKF = self._weight_VF.index_select(0, self._token_NK.flatten()).unflatten(0, self._token_NK.shape)
        logits_N1K: Tensor = head_input_N1F @ weight_NKF.mT
        if self.bias_V is not None:
            logits_N1K = logits_N1K + self.bias_V[self._token_NK][:, None]
        return logits_N1K
