"""Ridge regression from sums over tokens: one pass over the data, in constant memory.

Shapes: N tokens, D inputs, J = D + 1 with a constant 1 in front for the bias, H targets.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, reduce
from itertools import product
from operator import add
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from eexit.decode.engine import cache_budget
from eexit.method.linear_map import LinearMap, has_float64, in_float64

CPU: Final = torch.device("cpu")
MOST_TIMES: Final = 2.0  # the time in float32; products that take less are made in float64
TIMED_WIDTH: Final = 2048  # of the matrices in a timed product
TIMED: Final = 4  # products; the fastest counts
BLOCK_TOKENS: Final = 256  # per float32 product
ROOM_SHARE: Final = 0.25  # of a device's free memory, which one more sum may take
# In units of the variance of standardised inputs.
PENALTIES: Final = tuple(10 ** (exponent / 2) for exponent in range(-12, 5))


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of products of inputs and targets; float64, on the tokens' device unless it lacks float64."""

    inputs_JJ: Tensor
    both_JH: Tensor
    squares_H: Tensor  # of targets

    @classmethod
    def from_tokens(cls, input_ND: Tensor, target_NH: Tensor) -> "Moments":
        """Add up these tokens on the inputs' device: in float64 or, where that is slow, in float32 blocks."""
        target_NH = target_NH.to(input_ND.device)
        if adds_in_float64(input_ND.device):
            return cls._products(input_ND.double(), target_NH.double())
        blocks = zip(input_ND.float().split(BLOCK_TOKENS), target_NH.float().split(BLOCK_TOKENS), strict=True)
        return reduce(add, [cls._about_their_means(*block) for block in blocks])

    @classmethod
    def _products(cls, input_ND: Tensor, target_NH: Tensor) -> "Moments":
        input_NJ = F.pad(input_ND, (1, 0), value=1.0)
        return cls(input_NJ.mT @ input_NJ, input_NJ.mT @ target_NH, target_NH.square().sum(0))

    @classmethod
    def _about_their_means(cls, input_ND: Tensor, target_NH: Tensor) -> "Moments":
        """Add up a block: float32 products of the centred values, to which the means are added in float64."""
        mean_D, mean_H = input_ND.mean(0), target_NH.mean(0)
        left = cls._products(input_ND - mean_D, target_NH - mean_H).in_float64()
        mean_J, mean_H = (in_float64(mean) for mean in (F.pad(mean_D, (1, 0)), mean_H))
        half_J = left.inputs_JJ[0] + left.n * mean_J / 2
        return cls(
            left.inputs_JJ + torch.outer(mean_J, half_J) + torch.outer(half_J, mean_J),
            left.both_JH + torch.outer(mean_J, left.both_JH[0]) + torch.outer(half_J + left.n * mean_J / 2, mean_H),
            left.squares_H + 2 * mean_H * left.both_JH[0] + left.n * mean_H.square(),
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], name: str) -> "Moments":
        return cls(*[state[f"{name}.{field.name}"] for field in fields(cls)])

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.{field.name}": getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*[getattr(self, field.name) + getattr(other, field.name) for field in fields(self)])

    def in_float64(self) -> "Moments":
        return Moments(*[in_float64(getattr(self, field.name)) for field in fields(self)])

    def to(self, device: torch.device) -> "Moments":
        return Moments(*[getattr(self, field.name).to(device) for field in fields(self)])

    @property
    def n_bytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def targets(self, some: slice) -> "Moments":
        """Return the sums for a slice of the targets."""
        return Moments(self.inputs_JJ, self.both_JH[:, some], self.squares_H[some])

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
        """Standard deviations of the inputs; 1 for a constant input."""
        std_D = self.covariance_DD.diagonal().clamp_min(0).sqrt()
        return torch.where(std_D > 0, std_D, 1.0)

    @property
    def variance(self) -> float:
        """Variance of the targets, summed over H."""
        mean_H = self.both_JH[0] / self.n
        return (self.squares_H / self.n - mean_H.square()).sum().item()

    def error(self, map_JH: Tensor) -> float:
        """Return the mean squared error of a map, summed over H."""
        explained = (map_JH * (2 * self.both_JH - self.inputs_JJ @ map_JH)).sum()
        return ((self.squares_H.sum() - explained) / self.n).item()


class SplitMoments:
    """The sums of each regression, for training and validation texts.

    They stay on the tokens' device while it has plenty of free memory, and are on the CPU otherwise.
    """

    def __init__(self, parts: Mapping[str, Moments] | None = None) -> None:
        self._parts = dict(parts or {})  # by name, such as "5.learn" or "5.choose"

    def add(self, regression: str, chooses: bool, more: Moments) -> None:
        name, device = _name(regression, chooses), more.n.device
        if held := self._parts.get(name):
            self._parts[name] = held + more.to(held.n.device)
        else:
            self._parts[name] = more if more.n_bytes < ROOM_SHARE * cache_budget(device, 1.0) else more.to(CPU)

    def moments_of(self, regression: str) -> tuple[Moments, Moments]:
        """Return a regression's training sums and validation sums, on the CPU."""
        learn, choose = (self._parts[_name(regression, chooses)].to(CPU) for chooses in (False, True))
        return learn, choose

    def tensors(self) -> dict[str, Tensor]:
        each = [sums.tensors(f"sums.{name}") for name, sums in self._parts.items()]
        return {key: tensor for state in each for key, tensor in state.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "SplitMoments":
        """Restore the sums from a state, which may have other tensors too."""
        names = {key.rpartition(".")[0] for key in state if key.startswith("sums.")}
        return cls({name.removeprefix("sums."): Moments.from_state(state, name) for name in names})


@cache
def adds_in_float64(device: torch.device) -> bool:
    """Return True if products are made in float64: on a CPU, or on a GPU that is not twice as slow for them."""
    if device.type == "cpu" or not has_float64(device):
        return device.type == "cpu"
    return _seconds_of_a_product(device, torch.float64) < MOST_TIMES * _seconds_of_a_product(device, torch.float32)


def _seconds_of_a_product(device: torch.device, dtype: torch.dtype) -> float:
    given, waits = torch.ones(TIMED_WIDTH, TIMED_WIDTH, device=device, dtype=dtype), torch.get_device_module(device)
    seconds = []
    for _ in range(TIMED):
        waits.synchronize(device)
        began = time.perf_counter()
        given @ given
        waits.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _name(regression: str, chooses: bool) -> str:
    return f"{regression}.{'choose' if chooses else 'learn'}"


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of standardised inputs and the variances along them; the same for all targets."""

    variance_D: Tensor
    axes_DD: Tensor

    @classmethod
    def from_moments(cls, sums: Moments) -> "PrincipalAxes":
        return cls(*torch.linalg.eigh(sums.covariance_DD / torch.outer(sums.std_D, sums.std_D)))


class Ridge:
    """Ridge regressions of the same data with any penalty on the distance of the standardised weights from a prior's.

    The bias has no penalty. `axes` are those of the same inputs, if already computed.
    """

    def __init__(self, sums: Moments, prior_DH: Tensor, axes: PrincipalAxes | None = None):
        self.prior_DH, self.mean_D, self.std_D = prior_DH, sums.mean_D, sums.std_D
        self.target_mean_H = sums.both_JH[0] / sums.n
        both_DH = sums.both_JH[1:] / sums.n - torch.outer(self.mean_D, self.target_mean_H)
        missing_DH = (both_DH - sums.covariance_DD @ prior_DH) / self.std_D[:, None]
        axes = axes or PrincipalAxes.from_moments(sums)
        self.variance_D, self.axes_DD = axes.variance_D, axes.axes_DD
        self.turned_DH = self.axes_DD.mT @ missing_DH

    def fit(self, penalty: float) -> Tensor:
        """Return the map (J, H)."""
        shrunk_DH = self.turned_DH / (self.variance_D.clamp_min(0) + penalty)[:, None]
        weight_DH = self.prior_DH + (self.axes_DD @ shrunk_DH) / self.std_D[:, None]
        return torch.cat([(self.target_mean_H - self.mean_D @ weight_DH)[None], weight_DH])


def best_fit(
    learn: Moments, choose: Moments, priors: Sequence[Tensor], refit: bool = True,
    axes: tuple[PrincipalAxes | None, PrincipalAxes | None] = (None, None),
) -> Tensor:  # fmt: skip
    """Return the map (J, H) with the penalty and prior that, fitted to `learn`, have the least error on `choose`.

    With `refit`, the chosen map is then fitted to all data. `priors` are weights (D, H). `axes` are those of the
    training inputs and of all inputs, if already computed.
    """
    ridges = [Ridge(learn, prior_DH, axes[0]) for prior_DH in priors]
    tried = product(range(len(ridges)), PENALTIES)
    _, index, penalty = min((choose.error(ridges[index].fit(penalty)), index, penalty) for index, penalty in tried)
    return (Ridge(learn + choose, priors[index], axes[1]) if refit else ridges[index]).fit(penalty)


def linear_map(map_JH: Tensor) -> LinearMap:
    """Convert a solution to fp32, contiguous as the engine multiplies it."""
    return LinearMap(map_JH[1:].float().contiguous(), map_JH[0].float().contiguous())
