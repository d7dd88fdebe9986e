"""KV maps: keys and values of exited tokens, against the layer's own code, and tensors of an artefact."""

from collections.abc import Mapping

import pytest
import torch
from references import decoder_of, packed_decoder_of
from torch import Tensor
from transformers import PreTrainedModel
from untrained import N_LAYERS, WIDTH, key_maps, stream_maps

from eexit.cpu.token_subset import TokenSubset
from eexit.method.kv_maps import FORMS, STREAMS, KVMaps
from eexit.method.layer_call import ExitedTokens, LayerCall
from eexit.method.modes import MODES
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer

EXITS = (1, 3, 4)
LAYER = 5  # of which keys and values are written
AFTER = (4, 1, 3, 1)  # the layers that four tokens exited after: the first needs no map


def maps_of(form: str, decoder: Decoder) -> tuple[Mapping[str, Tensor], KVMaps]:
    tensors = stream_maps() if form == STREAMS else key_maps(decoder)
    return tensors, KVMaps.from_tensors(tensors, EXITS, N_LAYERS)


def written(decoder: Decoder, maps: KVMaps, hidden_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's keys and values of exited tokens, each at position 3 of its sequence."""
    cache, flag_B1 = decoder.cache(len(hidden_BW), 4), torch.ones(len(hidden_BW), 1).bool()
    exited = ExitedTokens(flag_B1, TokenSubset.from_flag(flag_B1[:, 0]), torch.tensor(AFTER)[:, None], {}, maps)

    def visit(layer: VisitedLayer, entering_B1W: Tensor) -> Tensor:
        if layer.index == LAYER:
            call = LayerCall(layer, hidden_BW[:, None])
            MODES["mapped_residual"].enter(call, exited)
            call.run_keys_alone()
        return entering_B1W

    attention_mask_BC = flag_B1.expand(-1, 4)
    decoder.run(visit, ForwardInputs(flag_B1.long(), 3 * flag_B1.long(), attention_mask_BC), cache)
    keys, values = cache.latest(LAYER, 1)
    return keys[:, :, 0], values[:, :, 0]


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_what_the_layer_makes_of_each_tokens_mapped_stream(
    llama: PreTrainedModel, form: str, is_packed: bool
) -> None:
    """Check tokens of several exits, with projections and the rotary angles of their positions."""
    decoder = (packed_decoder_of if is_packed else decoder_of)(llama)
    hidden_BW = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    layer, cos_sin = llama.model.layers[LAYER], llama.model.rotary_emb(hidden_BW, torch.tensor([[3]]))
    own = {"key": layer.self_attn.k_proj, "value": layer.self_attn.v_proj}
    tensors, maps = maps_of(form, decoder)
    keys_BHD, values_BHD = written(decoder, maps, hidden_BW)
    for token, (exit_layer, hidden_W) in enumerate(zip(AFTER, hidden_BW, strict=True)):
        name, normed_W = f"state.{exit_layer}.{LAYER}", layer.input_layernorm(hidden_W)
        if exit_layer == LAYER - 1:  # which needs no map
            made = {part: project(normed_W) for part, project in own.items()}
        elif form == STREAMS:
            entering_W = hidden_W + hidden_W @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
            made = {part: project(layer.input_layernorm(entering_W)) for part, project in own.items()}
        else:
            made = {p: normed_W @ tensors[f"{name}.{p}.weight"] + tensors[f"{name}.{p}.bias"] for p in own}
        torch.testing.assert_close(values_BHD[token].flatten(), made["value"], rtol=1e-4, atol=1e-5)
        rotated_HD = rotated(made["key"].view(2, 8), *(part[0, 0] for part in cos_sin))
        torch.testing.assert_close(keys_BHD[token], rotated_HD, rtol=1e-4, atol=1e-5)


def rotated(key_HD: Tensor, cos_D: Tensor, sin_D: Tensor) -> Tensor:
    first, second = key_HD.chunk(2, -1)
    return key_HD * cos_D + torch.cat([-second, first], -1) * sin_D


@pytest.mark.parametrize("form", FORMS)
def test_maps_are_the_tensors_that_they_are_made_of(llama: PreTrainedModel, form: str) -> None:
    decoder = decoder_of(llama)
    given, some = maps_of(form, decoder)
    tensors = KVMaps.from_tensors(given, range(N_LAYERS), N_LAYERS).to_decoder_devices(decoder).tensors()
    assert tensors.keys() == given.keys()
    assert all(torch.equal(tensors[name], given[name]) for name in given)
    assert {*some.of_layers} == {(e, layer) for e in EXITS for layer in range(e + 2, N_LAYERS)}
