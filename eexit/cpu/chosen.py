"""Some of a pass's tokens: what is computed for them alone, and what for all.

On a CPU, a computation takes as long as it has tokens, and nothing is lost by asking which they are. On other devices
the host would have to wait for that, and a few tokens take as long as many: there, all are computed under a mask.

Shapes: D tokens, N of them chosen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chosen:
    """The tokens that `flag_D` chooses; `rows` indexes those that are computed for them."""

    flag_D: Tensor
    rows: Tensor | slice

    @classmethod
    def of(cls, flag_D: Tensor) -> "Chosen":
        """Choose the tokens with this flag."""
        return cls(flag_D, flag_D.nonzero()[:, 0] if flag_D.device.type == "cpu" else slice(None))

    @property
    def are_none(self) -> bool:
        """Whether no token is chosen; False where the host does not know."""
        return isinstance(self.rows, Tensor) and not len(self.rows)

    @property
    def are_all(self) -> bool:
        """Whether all tokens are chosen; False where the host does not know."""
        return isinstance(self.rows, Tensor) and len(self.rows) == len(self.flag_D)

    @property
    def has_all(self) -> bool:
        """Whether `rows` indexes all tokens."""
        return isinstance(self.rows, slice) or len(self.rows) == len(self.flag_D)

    def put(self, target_D: Tensor, values_N: Tensor) -> None:
        """Write values, computed for `rows`, to the chosen tokens of the target."""
        if isinstance(self.rows, Tensor):
            target_D[self.rows] = values_N.to(target_D.dtype)
        else:
            flag_D = self.flag_D.view(-1, *[1] * (target_D.ndim - 1))
            torch.where(flag_D, values_N.to(target_D.dtype), target_D, out=target_D)

    def within(self, flag_D: Tensor) -> "Chosen":
        """Choose the chosen tokens that have this flag, among what was computed for `rows`."""
        if isinstance(self.rows, Tensor):
            return Chosen.of(flag_D[self.rows])
        return Chosen(flag_D & self.flag_D, self.rows)
