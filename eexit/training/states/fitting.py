"""One map's regression: its penalty, what is left of it at a rank, and how much it explains.

Shapes: D inputs, J = D + 1 with a constant 1 in front, H targets, R rank.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from eexit.method.state_maps import LinearMap
from eexit.training.ridge import PENALTIES, Axes, Ridge, SplitSums, Sums

NO_TARGETS = slice(0, 0)


@dataclass(frozen=True, eq=False)
class Regression:
    """Where the sums of one map are, and what it is drawn to: the map that `frozen_residual` stands for.

    Its targets are several outputs side by side, of these `widths`. If it is a `change`, what is used of it is how it
    differs from the one that it is drawn to.
    """

    sums: str  # their name in `SplitSums`
    targets: slice
    prior_JH: Tensor
    widths: tuple[int, ...]
    change: bool

    @property
    def base_JH(self) -> Tensor:
        return self.prior_JH if self.change else torch.zeros_like(self.prior_JH)


@dataclass(frozen=True)
class Fit:
    """A map (J, H) fitted to the texts that are learned from alone, and to those that choose as well."""

    of_learn_JH: Tensor
    of_all_JH: Tensor
    penalty: float  # the one that suits the texts that choose best


class Fits:
    """Fits of regressions of which many have the same inputs, whose axes are found once."""

    def __init__(self, sums: SplitSums):
        self._sums = sums
        self._axes_of = lru_cache(1)(self._find_axes)

    def of(self, regression: Regression) -> Fit:
        learn, choose = (part.targets(regression.targets) for part in self._sums.of(regression.sums))
        learn_axes, all_axes = self._axes_of(regression.sums)
        prior_DH = regression.prior_JH[1:]
        ridge = Ridge(learn, prior_DH, learn_axes)
        _, penalty = min((choose.error(ridge.fit(penalty)), penalty) for penalty in PENALTIES)
        return Fit(ridge.fit(penalty), Ridge(learn + choose, prior_DH, all_axes).fit(penalty), penalty)

    def of_rank(self, regression: Regression, map_JH: Tensor, rank: int) -> Tensor:
        """The map of this rank, in each of its outputs, whose values differ least from `map_JH`'s in mean square.

        That is the singular value decomposition of the map in the metric of the inputs' covariance, as in reduced-rank
        regression (Izenman 1975).
        """
        learn, choose = (part.targets(NO_TARGETS) for part in self._sums.of(regression.sums))
        inputs = learn + choose
        low = []
        for change_JH in (map_JH - regression.base_JH).split(regression.widths, 1):
            weight_DH = change_JH[1:]
            _, axes_HH = torch.linalg.eigh(weight_DH.mT @ inputs.covariance_DD @ weight_DH)
            low_DH = weight_DH @ axes_HH[:, -rank:] @ axes_HH[:, -rank:].mT
            low.append(torch.cat([change_JH[:1] + inputs.mean_D @ (weight_DH - low_DH), low_DH]))
        return regression.base_JH + torch.cat(low, 1)

    def _find_axes(self, name: str) -> tuple[Axes, Axes]:
        learn, choose = (part.targets(NO_TARGETS) for part in self._sums.of(name))
        return Axes.of(learn), Axes.of(learn + choose)


def explained(sums: Sums, map_JH: Tensor) -> float:
    """The share of the targets' variance that a map explains; below 0 if their mean would be nearer to them."""
    return 1 - sums.error(map_JH) / sums.variance


def linear_map(map_JH: Tensor, rank: int | None) -> LinearMap:
    """As the engine multiplies it: at once, or by two matrices if it has a rank, fp32."""
    weights: tuple[Tensor, ...] = (map_JH[1:],)
    if rank is not None:
        left_DK, size_K, right_KH = torch.linalg.svd(map_JH[1:], full_matrices=False)
        weights = left_DK[:, :rank] * size_K[:rank], right_KH[:rank]
    return LinearMap(tuple(weight.float().contiguous() for weight in weights), map_JH[0].float().contiguous())
