"""What screens are made of is kept in a cache that changes no result: it is of this model alone, and whole."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.model.layers import Decoder
from eexit.sweeps import head_moment
from eexit.sweeps.head_moment import moment_of, second_moment


def test_each_model_has_a_moment_of_its_own_which_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    first = moment_of(Decoder(model), tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for at in (0, 8, 20, len(whole) - 1):  # its length, the header, its names, a number
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert torch.equal(moment_of(Decoder(model), tmp_path), first), "a damaged one is made anew"
        assert path.read_bytes() == whole
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    other = moment_of(Decoder(model), tmp_path)
    assert torch.equal(other, second_moment(Decoder(model)))
    assert not torch.equal(other, first)
    model.config.get_text_config().rms_norm_eps = 0.1
    made = moment_of(Decoder(model), tmp_path)
    assert len([*tmp_path.iterdir()]) == 3
    pack_linear_layers(model)
    monkeypatch.setattr(head_moment, "second_moment", None)
    assert torch.equal(moment_of(Decoder(model), tmp_path), made), "it is read again, also for packed weights"
