"""Artefacts are loaded as they were saved."""

from pathlib import Path

import pytest
import torch
from references import decoder_of, shared_model
from untrained import LINEAR, PROBE, TINY, artefact, config_with, key_maps, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, STREAMS
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.plan.artefacts import READOUT
from eexit.sweeps.load_artefacts import load_kv_maps, load_probe, load_readout

MAPPING = {"modes": ("normal", "mapped_residual")}


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    linear = artefact(tmp_path / "linear", "linear", (READOUT,))
    probe = artefact(tmp_path / "probe", "probe", (PROBE_ROLE,))
    decoder, hidden_BW = decoder_of(shared_model("llama")), torch.randn(4, 32)
    readout = load_readout(config_with(readout=str(linear)), [1, 3], decoder)
    assert all(part.equal(getattr(LINEAR.maps[3], name)) for name, part in vars(vars(readout)["maps"][3]).items())
    loaded = load_probe(config_with(probe=str(probe)), [1, 3], decoder)
    assert loaded is not None
    for layer in (1, 3):
        ours, its = (probe.predicted_kl(hidden_BW, layer, torch.full((4,), 0.5)) for probe in (loaded, PROBE))
        assert ours.equal(its)


@pytest.mark.parametrize("form", FORMS)
def test_state_maps_are_loaded_for_the_layers_of_the_sweep(tmp_path: Path, form: str) -> None:
    decoder = decoder_of(shared_model("llama"))
    given = stream_maps() if form == STREAMS else key_maps(decoder)
    place = str(save_state_maps(tmp_path / "maps", given, TINY))
    maps = load_kv_maps(config_with(kv_maps=place, **MAPPING), [1, 3], decoder)
    assert maps
    assert maps.form == form
    assert {exit_layer for exit_layer, _ in maps.of_layers} == {1, 3}
    assert all(tensor.equal(given[name]) for name, tensor in maps.tensors().items())
    assert load_kv_maps(config_with(), [1, 3], decoder) is None


def test_maps_to_keys_and_values_are_refused_where_layers_have_no_projections(tmp_path: Path) -> None:
    place = str(save_state_maps(tmp_path / "maps", key_maps(decoder_of(shared_model("llama"))), TINY))
    with pytest.raises(UsageError, match=r"is of form keys, but layer 0 makes keys .*: train maps of form streams$"):
        load_kv_maps(config_with(kv_maps=place, **MAPPING), [1], decoder_of(shared_model("gpt2")))
