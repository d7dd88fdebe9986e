"""The forms of KV maps: the inputs and targets of their regressions, and the maps made from the solutions.

`keys`, for layers with separate projections, maps the hidden state at the exit, after the skipped layer's norm, to that
layer's keys and values. `streams`, for all others, maps the hidden state at the exit to the skipped layer's input.
Norms that differ in gain and bias alone, as in most models, share one sum of input products: a penalty on standardised
weights is independent of the inputs' scale.

Shapes: N tokens, W width of a hidden state, D width of the input of the key and value projections, H targets of a
regression, J = D + 1 with a constant 1 in front.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from eexit.method.kv_maps import KEYS, STREAMS
from eexit.method.linear_map import LinearMap
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer
from eexit.training.ridge import linear_map

PROBES: Final = 64  # hidden states on which norms are compared
LEAST_GAIN: Final = 1e-4  # of the largest gain: a norm that nearly drops an input can't represent another norm

After = Mapping[int, Tensor]  # hidden states (N, W) by the layer that they come from
Pair = tuple[int, int]  # an exit layer and a skipped layer
RegressionData = Iterable[tuple[str, Tensor, Tensor]]  # name, inputs and targets


def deeper(exit_layer: int, n_layers: int) -> range:
    """Return the skipped layers whose input is unknown: the layer after the exit gets the hidden state at the exit."""
    return range(exit_layer + 2, n_layers)


@dataclass(frozen=True, eq=False)
class MapRegression:
    """Regression of one map: its moments by name, its targets, and its prior map (J, H), that of `frozen_residual`."""

    sums: str  # name in `SplitMoments`
    targets: slice
    prior_JH: Tensor


class MapForm(Protocol):
    """Interface of a form of KV maps: the regressions that fit the maps, and their conversion to maps."""

    @property
    def regressions(self) -> Mapping[Pair, MapRegression]: ...

    def targets(self, after: After) -> Mapping[int, Tensor]:
        """Return the targets (N, H) for each skipped layer, from the hidden states of a full-depth pass."""

    def pairs(self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]) -> RegressionData:
        """Yield each regression's name, inputs and targets, for tokens with these hidden states at an exit."""

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        """Return the maps for `KVMaps` from a regression's solution."""


class HiddenForm:
    """Form of KV maps to the skipped layers' inputs; its prior is the hidden state at the exit."""

    def __init__(self, decoder: Decoder, exit_layers: Sequence[int]):
        self._deeper = {exit_layer: deeper(exit_layer, decoder.n_layers) for exit_layer in exit_layers}
        width, one_WW = decoder.width, torch.eye(decoder.width, dtype=torch.float64)
        self.same_JW = torch.cat([torch.zeros_like(one_WW[:1]), one_WW])
        self.regressions = {
            (exit_layer, layer): MapRegression(
                f"{STREAMS}.{exit_layer}", slice(index * width, (index + 1) * width), self.same_JW
            )
            for exit_layer, layers in self._deeper.items()
            for index, layer in enumerate(layers)
        }

    def targets(self, after: After) -> dict[int, Tensor]:
        return {layer + 1: hidden_NW for layer, hidden_NW in after.items()}

    def pairs(self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]) -> RegressionData:
        if layers := self._deeper[exit_layer]:
            yield f"{STREAMS}.{exit_layer}", hidden_NW, torch.cat([targets[layer] for layer in layers], 1)

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        return (linear_map(map_JH - self.same_JW),)


class KVForm:
    """Form of KV maps to keys and values; its prior is the layers' projections of the hidden state at the exit."""

    def __init__(self, decoder: Decoder, exit_layers: Sequence[int]):
        self.decoder, self._deeper = decoder, {layer: deeper(layer, decoder.n_layers) for layer in exit_layers}
        self._norms = compare_norms(decoder, self._deeper[exit_layers[0]])
        self._own = {layer: self._own_maps(layer) for layer in self._norms}
        self.regressions: dict[Pair, MapRegression] = {}
        for exit_layer in exit_layers:
            for like, layers in self._groups(exit_layer).items():
                start = 0
                for layer in layers:
                    norm, own_JH = self._norms[layer], torch.cat(self._own[layer], 1)
                    prior_JH = torch.cat([own_JH[:1] + norm.bias_D @ own_JH[1:], norm.gain_D[:, None] * own_JH[1:]])
                    at = slice(start, start + own_JH.shape[1])
                    self.regressions[exit_layer, layer] = MapRegression(f"{KEYS}.{exit_layer}.{like}", at, prior_JH)
                    start = at.stop

    @staticmethod
    def fits(decoder: Decoder, exit_layers: Sequence[int]) -> bool:
        """Return True if each layer has separate linear modules for keys and values, with the same input."""
        layers = deeper(exit_layers[0], decoder.n_layers)
        return all(decoder.for_keys[layer].projections and is_shared(decoder, layer) for layer in layers)

    def _groups(self, exit_layer: int) -> dict[int, list[int]]:
        """Return an exit's skipped layers in groups; the norms of a group differ by a gain and bias only.

        The key is the layer that represents its group.
        """
        groups: dict[int, list[int]] = {}
        for layer in self._deeper[exit_layer]:
            groups.setdefault(self._norms[layer].like, []).append(layer)
        return groups

    @torch.inference_mode()
    def _own_maps(self, layer: int) -> list[Tensor]:
        """Return the layer's projections to keys and to values as maps (J, …), float64, from images of unit vectors."""
        width = len(self._norms[layer].gain_D)
        given_JD = torch.eye(width + 1, width, device=self.decoder.device, dtype=self.decoder.dtype).roll(1, 0)
        made = [project(given_JD).cpu().double() for project in self.decoder.for_keys[layer].own_projections]
        return [torch.cat([made_JH[:1], made_JH[1:] - made_JH[:1]]) for made_JH in made]

    @torch.inference_mode()
    def targets(self, after: After) -> dict[int, Tensor]:
        return {layer: self._keys_and_values(layer, after[layer - 1]) for layer in self._norms}

    def _keys_and_values(self, layer: int, hidden_NW: Tensor) -> Tensor:
        """Return the layer's keys and values, concatenated, if `hidden_NW` is its input."""
        given_ND = entering(self.decoder, layer, hidden_NW)
        return torch.cat([project(given_ND) for project in self.decoder.for_keys[layer].own_projections], 1)

    def pairs(self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]) -> RegressionData:
        for like, layers in self._groups(exit_layer).items():
            target_NH = torch.cat([targets[layer] for layer in layers], 1)
            yield f"{KEYS}.{exit_layer}.{like}", entering(self.decoder, like, hidden_NW), target_NH

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        norm, own = self._norms[pair[1]], self._own[pair[1]]
        change_JH = map_JH - self.regressions[pair].prior_JH
        weight_DH = change_JH[1:] / norm.gain_D[:, None]
        of_norm_JH = torch.cat(own, 1) + torch.cat([change_JH[:1] - norm.bias_D @ weight_DH, weight_DH])
        return tuple(map(linear_map, of_norm_JH.split([part_JH.shape[1] for part_JH in own], 1)))


@dataclass(frozen=True, eq=False)
class RescaledNorm:
    """Norm of a layer, expressed as the norm of layer `like` times a gain plus a bias; float64."""

    like: int
    gain_D: Tensor
    bias_D: Tensor


def entering(decoder: Decoder, layer: int, hidden_NW: Tensor) -> Tensor:
    """Return the input (N, D) of the layer's key and value projections, if `hidden_NW` is the layer's input."""
    return _entering_each(decoder, layer, hidden_NW)[0]


def is_shared(decoder: Decoder, layer: int) -> bool:
    """Return True if the layer's two projections, to keys and to values, have the same input."""
    for_keys, for_values = _entering_each(decoder, layer, _probes(decoder))
    return torch.equal(for_keys, for_values)


def _probes(decoder: Decoder) -> Tensor:
    """Return fixed random hidden states, (N, W), with which norms are compared."""
    probe_NW = torch.randn(PROBES, decoder.width, generator=torch.Generator().manual_seed(0))
    return probe_NW.to(decoder.device, decoder.dtype)


@torch.inference_mode()
def _entering_each(decoder: Decoder, layer: int, hidden_NW: Tensor) -> list[Tensor]:
    caught: list[Tensor] = []

    def catch(own: Callable[[Tensor], Tensor], given_N1D: Tensor) -> Tensor:
        caught.append(given_N1D[:, 0])
        return own(given_N1D)

    def visit(at: VisitedLayer, hidden_N1W: Tensor) -> Tensor:
        if at.index == layer:
            at.write_keys(hidden_NW[:, None], [catch, catch])
        return hidden_N1W

    zero_N1 = torch.zeros(len(hidden_NW), 1, dtype=torch.long, device=decoder.device)
    decoder.run(visit, ForwardInputs(zero_N1, zero_N1, zero_N1 == 0), decoder.cache(len(hidden_NW), 1))
    return caught


def compare_norms(decoder: Decoder, layers: Sequence[int]) -> dict[int, RescaledNorm]:
    """Return each layer's norm, as a scaled norm of an earlier layer where it is one."""
    probe_NW = _probes(decoder)
    made = {layer: entering(decoder, layer, probe_NW).cpu().double() for layer in layers}
    tolerance, found = 8 * torch.finfo(decoder.dtype).eps, dict[int, RescaledNorm]()
    for layer, normed_ND in made.items():
        likes = sorted({scaled.like for scaled in found.values()})
        scaled = (_scaled(like, made[like], normed_ND, tolerance) for like in likes)
        one_D = torch.ones_like(normed_ND[0])
        found[layer] = next(filter(None, scaled), RescaledNorm(layer, one_D, torch.zeros_like(one_D)))
    return found


def _scaled(like: int, given_ND: Tensor, normed_ND: Tensor, tolerance: float) -> RescaledNorm | None:
    """Return the gain and bias that turn `given_ND`, the norm of layer `like`, into `normed_ND`; None if none do.

    The largest error in a dimension may be `tolerance` times its largest value.
    """
    centred_ND = given_ND - given_ND.mean(0)
    gain_D = (centred_ND * normed_ND).sum(0) / centred_ND.square().sum(0)
    bias_D = normed_ND.mean(0) - gain_D * given_ND.mean(0)
    off_D = (normed_ND - gain_D * given_ND - bias_D).abs().amax(0)
    is_scaled = bool((off_D <= tolerance * normed_ND.abs().amax(0)).all())
    keeps_all = bool(gain_D.abs().min() > LEAST_GAIN * gain_D.abs().max())
    return RescaledNorm(like, gain_D, bias_D) if is_scaled and keeps_all else None
