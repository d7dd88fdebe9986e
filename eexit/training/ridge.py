"""Ridge regression from sums over tokens, so that it needs one pass over the data and a memory that does not grow.

Shapes: N tokens, J = D + 1 inputs with a constant 1 in front, for the bias; D inputs, H targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

# In units of the standardised inputs' variance.
PENALTIES: Final = tuple(10 ** (exponent / 2) for exponent in range(-12, 5))


@dataclass(frozen=True)
class Sums:
    """Sums over tokens of products of inputs and targets; float64, on the CPU."""

    inputs_JJ: Tensor
    both_JH: Tensor
    squares_H: Tensor  # of the targets

    @classmethod
    def of(cls, input_ND: Tensor, target_NH: Tensor) -> "Sums":
        input_ND, target_NH = input_ND.cpu().double(), target_NH.cpu().double()
        input_NJ = F.pad(input_ND, (1, 0), value=1.0)
        return cls(input_NJ.mT @ input_NJ, input_NJ.mT @ target_NH, target_NH.square().sum(0))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], name: str) -> "Sums":
        return cls(*[state[f"{name}.{field.name}"] for field in fields(cls)])

    def state(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.{field.name}": getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*[getattr(self, field.name) + getattr(other, field.name) for field in fields(self)])

    def targets(self, some: slice) -> "Sums":
        """The sums of some of the targets alone."""
        return Sums(self.inputs_JJ, self.both_JH[:, some], self.squares_H[some])

    @property
    def n(self) -> Tensor:
        return self.inputs_JJ[0, 0]

    @property
    def mean_D(self) -> Tensor:
        return self.inputs_JJ[0, 1:] / self.n

    @property
    def covariance_DD(self) -> Tensor:
        return self.inputs_JJ[1:, 1:] / self.n - torch.outer(self.mean_D, self.mean_D)

    @property
    def std_D(self) -> Tensor:
        """Standard deviations of the inputs; 1 for an input that is constant."""
        std_D = self.covariance_DD.diagonal().clamp_min(0).sqrt()
        return torch.where(std_D > 0, std_D, 1.0)

    @property
    def variance(self) -> float:
        """The targets' variance, summed over H."""
        mean_H = self.both_JH[0] / self.n
        return (self.squares_H / self.n - mean_H.square()).sum().item()

    def error(self, map_JH: Tensor) -> float:
        """The mean squared error of a map, summed over H."""
        explained = (map_JH * (2 * self.both_JH - self.inputs_JJ @ map_JH)).sum()
        return ((self.squares_H.sum() - explained) / self.n).item()


class SplitSums:
    """The sums of each regression: of the texts that regressions are fitted to, and of those that choose a penalty."""

    def __init__(self, parts: Mapping[str, Sums] | None = None) -> None:
        self._parts = dict(parts or {})  # by names such as "5.learn" and "5.choose"

    def add(self, regression: str, chooses: bool, more: Sums) -> None:
        name = _name(regression, chooses)
        self._parts[name] = self._parts[name] + more if name in self._parts else more

    def of(self, regression: str) -> tuple[Sums, Sums]:
        """What is to be fitted, and what chooses."""
        return self._parts[_name(regression, chooses=False)], self._parts[_name(regression, chooses=True)]

    def state(self) -> dict[str, Tensor]:
        each = [sums.state(f"sums.{name}") for name, sums in self._parts.items()]
        return {key: tensor for state in each for key, tensor in state.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "SplitSums":
        """The sums in a state, which may have other tensors too."""
        names = {key.rpartition(".")[0] for key in state if key.startswith("sums.")}
        return cls({name.removeprefix("sums."): Sums.from_state(state, name) for name in names})


def _name(regression: str, chooses: bool) -> str:
    return f"{regression}.{'choose' if chooses else 'learn'}"


@dataclass(frozen=True)
class Axes:
    """The principal axes of standardised inputs, and the variances along them: the same for all targets."""

    variance_D: Tensor
    axes_DD: Tensor

    @classmethod
    def of(cls, sums: Sums) -> "Axes":
        return cls(*torch.linalg.eigh(sums.covariance_DD / torch.outer(sums.std_D, sums.std_D)))


class Ridge:
    """Ridge regressions of the same data, with any penalty on standardised weights' distance from a prior's.

    The bias has no penalty. `axes` are those of the same inputs, if they are known.
    """

    def __init__(self, sums: Sums, prior_DH: Tensor, axes: Axes | None = None):
        self.prior_DH, self.mean_D, self.std_D = prior_DH, sums.mean_D, sums.std_D
        self.target_mean_H = sums.both_JH[0] / sums.n
        both_DH = sums.both_JH[1:] / sums.n - torch.outer(self.mean_D, self.target_mean_H)
        missing_DH = (both_DH - sums.covariance_DD @ prior_DH) / self.std_D[:, None]
        axes = axes or Axes.of(sums)
        self.variance_D, self.axes_DD = axes.variance_D, axes.axes_DD
        self.turned_DH = self.axes_DD.mT @ missing_DH

    def fit(self, penalty: float) -> Tensor:
        """The map (J, H)."""
        shrunk_DH = self.turned_DH / (self.variance_D.clamp_min(0) + penalty)[:, None]
        weight_DH = self.prior_DH + (self.axes_DD @ shrunk_DH) / self.std_D[:, None]
        return torch.cat([(self.target_mean_H - self.mean_D @ weight_DH)[None], weight_DH])


def best_fit(
    learn: Sums,
    choose: Sums,
    priors: Sequence[Tensor],
    refit: bool = True,
    axes: tuple[Axes | None, Axes | None] = (None, None),
) -> Tensor:
    """The map (J, H) with the penalty and prior that, fitted to `learn`, have the least error on `choose`.

    With `refit`, it is then fitted to all data. `axes` are those of the inputs to learn from, and of all, if known.
    """
    ridges = [Ridge(learn, prior_DH, axes[0]) for prior_DH in priors]
    tried = [
        (choose.error(ridge.fit(penalty)), index, penalty)
        for index, ridge in enumerate(ridges)
        for penalty in PENALTIES
    ]
    _, index, penalty = min(tried)
    return (Ridge(learn + choose, priors[index], axes[1]) if refit else ridges[index]).fit(penalty)
