"""KV maps are the tensors of an artefact, for each pair of an exit layer and a skipped layer."""

import pytest
import torch
from references import decoder_of
from transformers import PreTrainedModel
from untrained import N_LAYERS, key_maps, stream_maps

from eexit.method.kv_maps import FORMS, STREAMS, KVMaps

EXITS = (1, 3, 4)


@pytest.mark.parametrize("form", FORMS)
def test_maps_are_the_tensors_that_they_are_made_of(llama: PreTrainedModel, form: str) -> None:
    decoder = decoder_of(llama)
    given = stream_maps() if form == STREAMS else key_maps(decoder)
    maps = KVMaps.from_tensors(given, EXITS, N_LAYERS)
    assert {*maps.of_layers} == {(exit, layer) for exit in EXITS for layer in range(exit + 2, N_LAYERS)}
    tensors = KVMaps.from_tensors(given, range(N_LAYERS), N_LAYERS).to_decoder_devices(decoder).tensors()
    assert tensors.keys() == given.keys()
    assert all(torch.equal(tensors[name], given[name]) for name in given)
