"""Reading a layer through a screen: all logits roughly, in a few dimensions, and those of the best tokens exactly.

The head's weights W and the second moment C of what goes into it give the sketch of rank R with the least expected
squared error of the logits: of W·C^½, the R directions in which it is largest. A rough logit costs R multiply-adds then
instead of H (SVD-softmax, Shim et al. 2017, whose sketch takes no account of C). Rules look at the exact logits of the
best tokens alone.

Shapes: B rows, K tokens that are let through, R rank, H width of what the head takes, V vocabulary.
"""

from typing import Final

import torch
from torch import Tensor

from eexit.cpu.search import likeliest
from eexit.errors import UsageError
from eexit.method.screen_size import ScreenSize
from eexit.method.shortlist import Shortlist, ShortReading
from eexit.model.decoder import Decoder

ROWS: Final = 32  # at a time: each needs the weights of its own tokens
BLOCK: Final = 8  # tokens, of which only the best is sorted at first
LEAST: Final = 1e-6  # of a direction's share in C: what streams hardly ever have is not divided by


class Screen(Shortlist):
    """A model's head behind a sketch of it, given the second moment of what goes into it, (H, H).

    Raises `UsageError` if the model's head can't be used so, or the size does not fit it.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, size: ScreenSize, moment_HH: Tensor):
        super().__init__(decoder, size.n_tokens)
        weight_VH = self._weight_VH.float()
        n_tokens, width = weight_VH.shape
        if size.rank > width:
            raise UsageError(f"{size}: the rank is above the width of what the head takes, {width}")
        if size.n_tokens > n_tokens:
            raise UsageError(f"{size}: the model has only {n_tokens} tokens")
        share_H, direction_HH = torch.linalg.eigh(moment_HH.double())
        root_H = share_H.clamp(min=float(share_H.max()) * LEAST).sqrt()
        whitening_HH, colouring_HH = (direction_HH * scale_H @ direction_HH.T for scale_H in (1 / root_H, root_H))
        gram_HH = colouring_HH @ (weight_VH.T @ weight_VH).double() @ colouring_HH
        largest_HR = torch.linalg.eigh(gram_HH).eigenvectors[:, -size.rank :]
        dtype = self._weight_VH.dtype
        self.down_RH = (largest_HR.T @ whitening_HH).to(dtype)
        self.up_VR = (weight_VH @ (colouring_HH @ largest_HR).float()).to(dtype)

    @property
    def bias_V(self) -> Tensor | None:
        return self._bias_V

    def tokens(self, ready_BH: Tensor) -> Tensor:
        """The tokens of each row that the screen lets through, (B, K)."""
        rough_BV = (ready_BH @ self.down_RH.T) @ self.up_VR.T
        if self._bias_V is not None:
            rough_BV = rough_BV + self._bias_V
        return likeliest(rough_BV, self.n_tokens, BLOCK)[0]

    def screened(self, ready_BH: Tensor) -> ShortReading:
        """Read rows from what would go into the head."""
        return ShortReading.joined([self.read(part_BH, self.tokens(part_BH)) for part_BH in ready_BH.split(ROWS)])

    def best(self, ready_BH: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of each row that the screen lets through, in order of their ids, and their logits; both (B, K)."""
        token_BK = torch.cat([self.tokens(part_BH).sort(1).values for part_BH in ready_BH.split(ROWS)])
        parts = zip(ready_BH.split(ROWS), token_BK.split(ROWS), strict=True)
        return token_BK, torch.cat([self.logits(part_BH, part_BK) for part_BH, part_BK in parts])
