"""The forms of state maps: what each is regressed on, and the maps that its regressions are.

`keys`, where layers have projections of their own: a deeper layer's keys and values, as its projections make them, from
what its own norm makes of the stream at the exit. `streams`, elsewhere: the stream that enters a deeper layer, from the
stream at the exit. Norms that differ in a gain and a
bias alone, as those of most models' layers do, need one sum of products of inputs: a regression whose penalty is on
standardised weights does not depend on the inputs' scale.

Shapes: N tokens, W width of the residual stream, D width of what projections to keys get, H of a regression's targets,
J = D + 1 with a constant 1 in front.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from eexit.method.state_maps import KEYS, STREAMS, LinearMap
from eexit.model.layers import Decoder, Inputs, Layer

PROBES: Final = 64  # streams that norms are compared with
LEAST_GAIN: Final = 1e-4  # of the largest one: a norm that all but drops an input does not stand for another one

After = Mapping[int, Tensor]  # streams (N, W) by the layer after which they are
Pair = tuple[int, int]  # an exit layer, and a deeper one that it leaves out


def deeper(exit_layer: int, n_layers: int) -> range:
    """The layers whose input an exit leaves unknown: that of the next layer is the stream at the exit."""
    return range(exit_layer + 2, n_layers)


@dataclass(frozen=True, eq=False)
class Regression:
    """Where the sums of one map are, which of their targets are its own, and what it is drawn to: the map (J, H) that
    `frozen_residual` stands for.
    """

    sums: str  # their name in `SplitSums`
    targets: slice
    prior_JH: Tensor


class Form(Protocol):
    """What state maps of one form are fitted to."""

    @property
    def regressions(self) -> Mapping[Pair, Regression]: ...

    def targets(self, after: After) -> Mapping[int, Tensor]:
        """What maps are to give for each deeper layer, (N, H), from streams at full depth."""

    def pairs(
        self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]
    ) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Inputs and targets of tokens with these streams at an exit, by the names that `regressions` give them."""

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        """What a regression's map is for `StateMaps`."""


class StreamsForm:
    """Drawn to the stream at the exit itself, as if the layers between changed nothing."""

    def __init__(self, decoder: Decoder, exit_layers: Sequence[int]):
        self._deeper = {exit_layer: deeper(exit_layer, decoder.n_layers) for exit_layer in exit_layers}
        width, one_WW = decoder.width, torch.eye(decoder.width, dtype=torch.float64)
        self.same_JW = torch.cat([torch.zeros_like(one_WW[:1]), one_WW])
        self.regressions = {
            (exit_layer, layer): Regression(
                f"{STREAMS}.{exit_layer}", slice(index * width, (index + 1) * width), self.same_JW
            )
            for exit_layer, layers in self._deeper.items()
            for index, layer in enumerate(layers)
        }

    def targets(self, after: After) -> dict[int, Tensor]:
        return {layer + 1: hidden_NW for layer, hidden_NW in after.items()}

    def pairs(
        self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]
    ) -> Iterable[tuple[str, Tensor, Tensor]]:
        if layers := self._deeper[exit_layer]:
            yield f"{STREAMS}.{exit_layer}", hidden_NW, torch.cat([targets[layer] for layer in layers], 1)

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        return (linear_map(map_JH - self.same_JW),)


class KeysForm:
    """Drawn to the layer's own projections of the stream at the exit, which is what `frozen_residual` has."""

    def __init__(self, decoder: Decoder, exit_layers: Sequence[int]):
        self.decoder, self._deeper = decoder, {layer: deeper(layer, decoder.n_layers) for layer in exit_layers}
        self._norms = compare_norms(decoder, self._deeper[exit_layers[0]])
        self._own = {layer: self._own_maps(layer) for layer in self._norms}
        self.regressions: dict[Pair, Regression] = {}
        for exit_layer in exit_layers:
            for like, layers in self._groups(exit_layer).items():
                start = 0
                for layer in layers:
                    norm, own_JH = self._norms[layer], torch.cat(self._own[layer], 1)
                    prior_JH = torch.cat([own_JH[:1] + norm.bias_D @ own_JH[1:], norm.gain_D[:, None] * own_JH[1:]])
                    at = slice(start, start + own_JH.shape[1])
                    self.regressions[exit_layer, layer] = Regression(f"{KEYS}.{exit_layer}.{like}", at, prior_JH)
                    start = at.stop

    @staticmethod
    def fits(decoder: Decoder, exit_layers: Sequence[int]) -> bool:
        """Whether the layers make keys and values by two linear modules of their own, of the same input."""
        layers = deeper(exit_layers[0], decoder.n_layers)
        return all(decoder.for_keys[layer].projections and is_shared(decoder, layer) for layer in layers)

    def _groups(self, exit_layer: int) -> dict[int, list[int]]:
        """The deeper layers, by the layer whose norm stands for theirs."""
        groups: dict[int, list[int]] = {}
        for layer in self._deeper[exit_layer]:
            groups.setdefault(self._norms[layer].like, []).append(layer)
        return groups

    @torch.inference_mode()
    def _own_maps(self, layer: int) -> list[Tensor]:
        """The layer's own maps (J, …) to keys and to values, float64, found by what they make of unit vectors."""
        width = len(self._norms[layer].gain_D)
        given_JD = torch.eye(width + 1, width, device=self.decoder.device, dtype=self.decoder.dtype).roll(1, 0)
        made = [project(given_JD).cpu().double() for project in self.decoder.for_keys[layer].own_projections]
        return [torch.cat([made_JH[:1], made_JH[1:] - made_JH[:1]]) for made_JH in made]

    @torch.inference_mode()
    def targets(self, after: After) -> dict[int, Tensor]:
        return {layer: self._keys_and_values(layer, after[layer - 1]) for layer in self._norms}

    def _keys_and_values(self, layer: int, hidden_NW: Tensor) -> Tensor:
        """What the layer's projections make of the stream that enters it, side by side."""
        given_ND = entering(self.decoder, layer, hidden_NW)
        return torch.cat([project(given_ND) for project in self.decoder.for_keys[layer].own_projections], 1)

    def pairs(
        self, exit_layer: int, hidden_NW: Tensor, targets: Mapping[int, Tensor]
    ) -> Iterable[tuple[str, Tensor, Tensor]]:
        for like, layers in self._groups(exit_layer).items():
            target_NH = torch.cat([targets[layer] for layer in layers], 1)
            yield f"{KEYS}.{exit_layer}.{like}", entering(self.decoder, like, hidden_NW), target_NH

    def maps(self, pair: Pair, map_JH: Tensor) -> tuple[LinearMap, ...]:
        norm, own = self._norms[pair[1]], self._own[pair[1]]
        change_JH = map_JH - self.regressions[pair].prior_JH
        weight_DH = change_JH[1:] / norm.gain_D[:, None]
        of_norm_JH = torch.cat(own, 1) + torch.cat([change_JH[:1] - norm.bias_D @ weight_DH, weight_DH])
        return tuple(map(linear_map, of_norm_JH.split([part_JH.shape[1] for part_JH in own], 1)))


def linear_map(map_JH: Tensor) -> LinearMap:
    """As the engine multiplies it, fp32."""
    return LinearMap(map_JH[1:].float().contiguous(), map_JH[0].float().contiguous())


@dataclass(frozen=True, eq=False)
class Scaled:
    """A layer whose norm is that of layer `like`, times a gain, plus a bias; float64."""

    like: int
    gain_D: Tensor
    bias_D: Tensor


def entering(decoder: Decoder, layer: int, hidden_NW: Tensor) -> Tensor:
    """What the layer's projections to keys and values get, (N, D), if this is the stream that enters the layer."""
    return _entering_each(decoder, layer, hidden_NW)[0]


def is_shared(decoder: Decoder, layer: int) -> bool:
    """Whether the layer's projections to keys and to values, of which it has two, get the same."""
    for_keys, for_values = _entering_each(decoder, layer, _probes(decoder))
    return torch.equal(for_keys, for_values)


def _probes(decoder: Decoder) -> Tensor:
    """Streams to look at norms with, (N, W): the same every time."""
    probe_NW = torch.randn(PROBES, decoder.width, generator=torch.Generator().manual_seed(0))
    return probe_NW.to(decoder.device, decoder.dtype)


@torch.inference_mode()
def _entering_each(decoder: Decoder, layer: int, hidden_NW: Tensor) -> list[Tensor]:
    caught: list[Tensor] = []

    def catch(own: Callable[[Tensor], Tensor], given_N1D: Tensor) -> Tensor:
        caught.append(given_N1D[:, 0])
        return own(given_N1D)

    def visit(at: Layer, hidden_N1W: Tensor) -> Tensor:
        if at.index == layer:
            at.write_keys(hidden_NW[:, None], [catch, catch])
        return hidden_N1W

    zero_N1 = torch.zeros(len(hidden_NW), 1, dtype=torch.long, device=decoder.device)
    decoder.run(visit, Inputs(zero_N1, zero_N1, zero_N1 == 0), decoder.cache(len(hidden_NW), 1))
    return caught


def compare_norms(decoder: Decoder, layers: Sequence[int]) -> dict[int, Scaled]:
    """Each layer's norm, as that of an earlier one with another gain and bias if that is what it is."""
    probe_NW = _probes(decoder)
    made = {layer: entering(decoder, layer, probe_NW).cpu().double() for layer in layers}
    tolerance, found = 8 * torch.finfo(decoder.dtype).eps, dict[int, Scaled]()
    for layer, normed_ND in made.items():
        likes = sorted({scaled.like for scaled in found.values()})
        scaled = (_scaled(like, made[like], normed_ND, tolerance) for like in likes)
        one_D = torch.ones_like(normed_ND[0])
        found[layer] = next(filter(None, scaled), Scaled(layer, one_D, torch.zeros_like(one_D)))
    return found


def _scaled(like: int, given_ND: Tensor, normed_ND: Tensor, tolerance: float) -> Scaled | None:
    """The gain and bias that make one of the other, if there are any."""
    centred_ND = given_ND - given_ND.mean(0)
    gain_D = (centred_ND * normed_ND).sum(0) / centred_ND.square().sum(0)
    bias_D = normed_ND.mean(0) - gain_D * given_ND.mean(0)
    off_D = (normed_ND - gain_D * given_ND - bias_D).abs().amax(0)
    is_scaled = bool((off_D <= tolerance * normed_ND.abs().amax(0)).all())
    return Scaled(like, gain_D, bias_D) if is_scaled and gain_D.abs().min() > LEAST_GAIN * gain_D.abs().max() else None
