"""Selections of a pass's tokens: those that are computed for, and those whose results count.

On a CPU, a computation takes as long as it has tokens, and it is free to find out which they are. On other devices the
host would have to wait for the answer, and a few tokens take as long as many: there, all are computed, under a mask.

Shapes: M tokens of the N that are computed for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

Index = Tensor | slice


@dataclass(frozen=True)
class TokenSubset:
    """Subset of a pass's tokens: `index` selects those to compute; `mask_M` those whose results count (None: all)."""

    index: Index
    mask_M: Tensor | None = None

    @classmethod
    def from_flag(cls, flag_N: Tensor) -> "TokenSubset":
        """Return the subset of tokens whose flag is True."""
        return cls(slice(None)).narrow(flag_N)[0]

    def narrow(self, flag_M: Tensor) -> tuple["TokenSubset", Index]:
        """Return the subset of these tokens with this flag, and their places in results computed for all of these."""
        if flag_M.device.type != "cpu":
            return TokenSubset(self.index, flag_M if self.mask_M is None else self.mask_M & flag_M), slice(None)
        at = flag_M.nonzero()[:, 0]
        return TokenSubset(at if isinstance(self.index, slice) else self.index[at]), at

    def has_tokens(self) -> bool:
        """Return False if the selection is certainly empty; the host does not wait for the device to find out."""
        return isinstance(self.index, slice) or len(self.index) > 0

    def put(self, target_N: Tensor, values_M: Tensor) -> None:
        """Write values to the selected tokens of the target."""
        values_M = values_M.to(target_N.dtype)
        if self.mask_M is None:
            target_N[self.index] = values_M
            return
        mask_M = self.mask_M.view(-1, *[1] * (target_N.ndim - 1))
        if isinstance(self.index, slice):
            torch.where(mask_M, values_M, target_N, out=target_N)
        else:
            target_N[self.index] = torch.where(mask_M, values_M, target_N[self.index])

    def fill(self, n_tokens: int, values_M: Tensor, others: Callable[[], Tensor]) -> Tensor:
        """Return values for `n_tokens` tokens: `values_M` of the selected ones, and `others()` if there are others."""
        if self.mask_M is None and isinstance(self.index, Tensor) and len(self.index) == n_tokens:
            return values_M
        target_N = others().clone()
        self.put(target_N, values_M)
        return target_N


def join_indices(indices: Sequence[Index], n_tokens: int) -> tuple[Index, list[slice]]:
    """Join indices of tokens of a pass of `n_tokens`; return one index, and the part of each in it."""
    sizes = [len(each) if isinstance(each, Tensor) else n_tokens for each in indices]
    parts = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    tensors = [each for each in indices if isinstance(each, Tensor)]
    return indices[0] if len(indices) == 1 else torch.cat(tensors), parts
