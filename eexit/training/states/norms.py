"""What layers' own norms make of a stream for their projections to keys and values, and which norms are alike.

Shapes: N tokens, W width of the residual stream, D width of what the projections get.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder

PROBES: Final = 64  # streams that norms are compared with
LEAST_GAIN: Final = 1e-4  # of the largest one: a norm that all but drops an input does not stand for another one


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

    def catching(own: nn.Module) -> Callable[[Tensor], Tensor]:
        def catch(given_N1D: Tensor) -> Tensor:
            caught.append(given_N1D[:, 0])
            made: Tensor = own(given_N1D)
            return made

        return catch

    alone, n_tokens = decoder.for_keys[layer], len(hidden_NW)
    position_N1 = torch.zeros(n_tokens, 1, dtype=torch.long, device=decoder.device)
    view = decoder.view(KVCache(n_tokens, 1), position_N1, 1)
    with decoder.attending():
        _, layer_pass = decoder.begin(torch.ones_like(position_N1), view)
        layer_pass.write_keys(layer, hidden_NW[:, None], [catching(own) for own in alone.own_projections])
    return caught


def compare_norms(decoder: Decoder, layers: Sequence[int]) -> dict[int, Scaled]:
    """Each layer's norm, as that of an earlier one with another gain and bias if that is what it is."""
    probe_NW = _probes(decoder)
    made = {layer: entering(decoder, layer, probe_NW).double().cpu() for layer in layers}
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
