"""Some of a pass's tokens: which are computed for, and which of the results count.

On a CPU, a computation takes as long as it has tokens, and nothing is lost by asking which they are. On other devices
the host would have to wait for that, and a few tokens take as long as many: there, all are computed, under a mask.

Shapes: N tokens, M of them computed for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Index = Tensor | slice


@dataclass(frozen=True)
class Selection:
    """The tokens at `index` are computed for; of the results, those count that `mask_M` has (None: all)."""

    index: Index
    mask_M: Tensor | None = None

    @classmethod
    def from_flag(cls, flag_N: Tensor) -> "Selection":
        """Select the tokens with this flag."""
        return cls(slice(None)).narrow(flag_N)[0]

    def narrow(self, flag_M: Tensor) -> tuple["Selection", Index]:
        """Select those with this flag; return them, and where they are among the results computed so far."""
        if flag_M.device.type != "cpu":
            return Selection(self.index, flag_M if self.mask_M is None else self.mask_M & flag_M), slice(None)
        kept = flag_M.nonzero()[:, 0]
        return Selection(kept if isinstance(self.index, slice) else self.index[kept]), kept

    def has_tokens(self) -> bool:
        """Return False if no token is selected, as far as the host knows."""
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
        """Return the values of the selected among `n_tokens` tokens and those of `others`, called if there are any."""
        if self.mask_M is None and isinstance(self.index, Tensor) and len(self.index) == n_tokens:
            return values_M
        target_N = others().clone()
        self.put(target_N, values_M)
        return target_N
