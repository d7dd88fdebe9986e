"""State maps: what they write of an exited token, against the layer's own code, and as tensors."""

from collections.abc import Callable, Mapping

import pytest
import torch
from references import decoder_of, packed_decoder_of
from torch import Tensor
from transformers import PreTrainedModel
from untrained import N_LAYERS, WIDTH, key_maps, stream_maps

from eexit.method.state_maps import FORMS, KEYS, STREAMS, StateMaps
from eexit.model.cache import KVCache
from eexit.model.layers import Decoder

EXITS = (1, 3, 4)
LAYER = 5  # of which keys and values are written
AFTER = torch.tensor([4, 1, 3, 1])  # the layers that four tokens exited after: the first needs no map


def maps_of(form: str, decoder: Decoder) -> StateMaps:
    tensors = stream_maps() if form == STREAMS else key_maps(decoder)
    return StateMaps.of(tensors, EXITS, N_LAYERS)


@torch.inference_mode()
def written(decoder: Decoder, write: Callable[..., None], hidden_BW: Tensor, exits: object) -> list[Tensor]:
    """The keys and values of the layer of these tokens, each at position 3 of its row."""
    cache, position_B1 = KVCache(len(hidden_BW), 4), torch.full((len(hidden_BW), 1), 3)
    with decoder.attending():
        _, layer_pass = decoder.begin(torch.ones_like(position_B1), decoder.view(cache, position_B1, 4))
        write(layer_pass, LAYER, hidden_BW[:, None], *([] if exits is None else [exits]))
    return [part[:, :, 3] for part in cache.held(LAYER)]


@pytest.mark.parametrize("form", FORMS)
def test_tokens_of_several_exits_get_what_each_gets_alone(llama: PreTrainedModel, form: str) -> None:
    decoder, hidden_BW = packed_decoder_of(llama), torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    maps = maps_of(form, decoder)
    exits = [(layer, torch.eq(AFTER, layer).nonzero()[:, 0]) for layer in EXITS]
    together = written(decoder, maps.write_keys, hidden_BW, exits)
    own = written(decoder, lambda layer_pass, *given: layer_pass.write_keys(*given), hidden_BW, None)
    for token, exit_layer in enumerate(AFTER.tolist()):
        alone = written(decoder, maps.write_keys, hidden_BW[token : token + 1], [(exit_layer, slice(None))])
        for ours, expected, unmapped in zip(together, alone, own, strict=True):
            torch.testing.assert_close(ours[token], expected[0])
            assert torch.allclose(ours[token], unmapped[token], atol=1e-4) == (exit_layer == LAYER - 1)


def test_what_is_written_is_what_the_layer_makes_of_the_mapped_stream(llama: PreTrainedModel) -> None:
    """Both forms beside plain products: projections, and rotary angles of the token's position."""
    decoder, hidden_W = decoder_of(llama), torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    layer, cos_sin = llama.model.layers[LAYER], llama.model.rotary_emb(hidden_W[None], torch.tensor([[3]]))
    for form, tensors in ((STREAMS, stream_maps()), (KEYS, key_maps(decoder))):
        maps = StateMaps.of(tensors, EXITS, N_LAYERS)
        key, value = written(decoder, maps.write_keys, hidden_W[None], [(1, slice(None))])
        own = {"key": layer.self_attn.k_proj, "value": layer.self_attn.v_proj}
        if form == STREAMS:
            entering_W = hidden_W + hidden_W @ tensors["state.1.5.weight"] + tensors["state.1.5.bias"]
            made = {part: project(layer.input_layernorm(entering_W)) for part, project in own.items()}
        else:
            normed_W = layer.input_layernorm(hidden_W)
            made = {p: normed_W @ tensors[f"state.1.5.{p}.weight"] + tensors[f"state.1.5.{p}.bias"] for p in own}
        torch.testing.assert_close(value[0].flatten(), made["value"])
        torch.testing.assert_close(key[0], rotated(made["key"].view(2, 8), *(part[0, 0] for part in cos_sin)))


def rotated(key_HD: Tensor, cos_D: Tensor, sin_D: Tensor) -> Tensor:
    first, second = key_HD.chunk(2, -1)
    return key_HD * cos_D + torch.cat([-second, first], -1) * sin_D


@pytest.mark.parametrize("form", FORMS)
def test_maps_are_the_tensors_that_they_are_made_of(llama: PreTrainedModel, form: str) -> None:
    decoder = decoder_of(llama)
    given: Mapping[str, Tensor] = stream_maps() if form == STREAMS else key_maps(decoder)
    maps = StateMaps.of(given, range(N_LAYERS), N_LAYERS)
    tensors = maps.placed(decoder).tensors()
    assert tensors.keys() == given.keys()
    assert all(torch.equal(tensors[name], given[name]) for name in given)
    assert {*maps_of(form, decoder).of_layers} == {(e, layer) for e in EXITS for layer in range(e + 2, N_LAYERS)}
