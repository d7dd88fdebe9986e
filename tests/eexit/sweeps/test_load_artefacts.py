"""Artefacts are loaded as they were saved."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from byte_model import save_byte_model
from references import decoder_of, shared_model
from safetensors.torch import load_file
from tiny_models import tiny_model
from untrained import LINEAR, PROBE, TINY, artefact, config_with, key_maps, save_state_maps, stream_maps

import eexit
from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, KEYS, STREAMS
from eexit.model.layers import Decoder
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.plan.artefacts import READOUT
from eexit.sweeps.load_artefacts import load_kv_maps, load_probe, load_readout

# Made by tuned-lens 0.2.0 for a random Llama: `TunedLens.from_model(model)`, 60 steps of Adam, `save`. In
# logits.safetensors are the logits of its own `TunedLens`, with their hidden states and the model's norm and head.
LENS = Path(__file__).with_name("tuned_lens")


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    linear = artefact(tmp_path / "linear", "linear", (READOUT,))
    probe = artefact(tmp_path / "probe", "probe", (PROBE_ROLE,))
    decoder, hidden_BW = decoder_of(shared_model("llama")), torch.randn(4, 32)
    readout = load_readout(config_with(readout=str(linear)), [1, 3], decoder)
    assert all(part.equal(getattr(LINEAR.maps[3], name)) for name, part in vars(vars(readout)["maps"][3]).items())
    loaded: Any = load_probe(config_with(probe=str(probe)), [1, 3], decoder)
    for layer in (1, 3):
        ours, its = (probe.predicted_kl(hidden_BW, layer, torch.full((4,), 0.5)) for probe in (loaded, PROBE))
        assert ours.equal(its)


@pytest.mark.parametrize("form", FORMS)
def test_state_maps_are_loaded_for_the_layers_of_the_sweep(tmp_path: Path, form: str) -> None:
    """Maps to keys and values are refused where layers have no projections."""
    decoder = decoder_of(shared_model("llama"))
    given = stream_maps() if form == STREAMS else key_maps(decoder)
    config = config_with(kv_maps=str(save_state_maps(tmp_path / "maps", given, TINY)), modes=("mapped_residual",))
    maps: Any = load_kv_maps(config, [1, 3], decoder)
    assert (maps.form, {exit_layer for exit_layer, _ in maps.of_layers}) == (form, {1, 3})
    assert all(tensor.equal(given[name]) for name, tensor in maps.tensors().items())
    assert load_kv_maps(config_with(), [1, 3], decoder) is None
    if form == KEYS:
        with pytest.raises(UsageError, match=r"is of form keys, but layer 0 makes .*: train maps of form streams$"):
            load_kv_maps(config, [1], decoder_of(shared_model("gpt2")))


def test_a_tuned_lens_gives_the_logits_of_its_own_package() -> None:
    of_package, model = load_file(LENS / "logits.safetensors"), tiny_model("llama", vocab_size=64)
    with torch.no_grad():
        model.lm_head.weight.copy_(of_package["lm_head"])
        model.model.norm.weight.copy_(of_package["norm"])
    decoder, layers = Decoder(model), range(6)
    readout = load_readout(config_with(readout=str(LENS)), layers, decoder)
    for layer in layers:
        hidden_ND, logits_NV = (of_package[name][layer + 1] for name in ("hidden", "logits"))
        with torch.inference_mode():
            ours_NV = decoder.lm_head(readout.before_head(decoder, hidden_ND, layer))
        torch.testing.assert_close(ours_NV, logits_NV, rtol=0, atol=1e-5)


def test_a_sweep_reads_layers_by_a_tuned_lens(tmp_path: Path) -> None:
    save_byte_model(model := tmp_path / "Tiny-Llama")
    grid: dict[str, Any] = {"model": model, "rules": {"agree": []}, "max_new_tokens": 4, "quiet": True}
    tuned, plain = (eexit.sweep(["Why?"], readout=readout, **grid) for readout in (str(LENS), "lens"))
    kls = [[*sweep.tokens.query("configuration == 'normal'")["kl"].iloc[0]] for sweep in (tuned, plain)]
    assert kls[0] != kls[1]
    assert tuned.manifest.learned["readout"]["what"] == "tuned-lens"


class _Calls:
    def __reduce__(self) -> Any:
        return print, ("code was run",)


def narrow(folder: Path) -> None:
    tensors = torch.load(folder / "params.pt", weights_only=True)
    torch.save({name: part[..., :16] for name, part in tensors.items()}, folder / "params.pt")


MISFITS: list[tuple[dict[str, Any], Callable[[Path], object], str]] = [
    ({"base_model_name_or_path": "other/model"}, str,
     "was tuned for model other/model, not for this .*tiny-llama .another name.: give the lens of this model or, if"),
    ({}, narrow, "lens has maps of 32 × 16, and hidden states of model tiny-llama have 32$"),
    ({"num_hidden_layers": 6}, str, "has 6 layers, and model .*tiny-llama has 7$"),
    ({"lens_type": "mlp"}, str, r"has a config.json that is not of a tuned lens \(linear_tuned_lens\)$"),
    ({}, lambda folder: (folder / "params.pt").write_bytes(pickle.dumps(_Calls(), protocol=2)),
     "can't be read: params.pt has no maps of a tuned lens alone$"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "change", "says"), MISFITS)
def test_a_misfit_tuned_lens_is_refused(tmp_path: Path, changed: Any, change: Any, says: str, capsys: Any) -> None:
    save_byte_model(model := tmp_path / "tiny-llama")
    lens = copytree(LENS, tmp_path / "lens")
    (lens / "config.json").write_text(json.dumps(json.loads((lens / "config.json").read_text()) | changed))
    change(lens)
    with pytest.raises(ValueError, match=says):
        eexit.sweep(["Why?"], model=model, readout=str(lens), rules={"agree": []}, quiet=True)
    assert "code was run" not in capsys.readouterr().out
