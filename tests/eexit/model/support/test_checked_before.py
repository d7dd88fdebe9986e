"""A model that has passed its check is taken apart as it was then, without the check; one that differs is checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from eexit.model.support import checked_before, soundness
from eexit.model.support.checked_before import CheckedBefore
from eexit.model.views import CacheView
from tiny_models import shallow_model
from traces import kl_request, traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Decoding
from eexit.errors import UsageError
from eexit.model.layers import Decoder

Load = Callable[[PreTrainedModel], tuple[Decoder, bool]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Takes a model apart; then says whether it was checked for that."""
    checked = []

    def check(decoder: Decoder, *given: Any) -> None:
        checked.append(decoder)
        soundness.check(decoder, *given)

    monkeypatch.setattr("eexit.model.decoder.check", check)

    def load(model: PreTrainedModel) -> tuple[Decoder, bool]:
        decoder = Decoder(model, CheckedBefore(model, tmp_path))
        return decoder, decoder in checked

    return load


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2", "mixtral"])
def test_a_model_is_checked_once_and_decodes_the_same_without(load: Load, architecture: str) -> None:
    decoding = Decoding(exitable_layers=(0, 1), max_new_tokens=12, eos_token_ids=frozenset(), record_top_k=1)
    requests = [kl_request((5, 80, 7, 7, 31), mode, 0.5) for mode in ("unfrozen", "frozen_residual")]
    first, first_is_checked = load(shallow_model(architecture))
    again, again_is_checked = load(shallow_model(architecture))
    assert (first_is_checked, again_is_checked) == (True, False)
    assert again.windows == first.windows
    assert again.cache_shapes == first.cache_shapes
    tokens = [
        [trace.token_id_T.tolist() for trace in traces_of(Engine(each, decoding).generate(requests)).values()]
        for each in (first, again)
    ]
    assert tokens[0] == tokens[1]


def _other_weight(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1


def _other_configuration(model: Any) -> None:
    model.config.rms_norm_eps *= 2


def _other_module(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()


@pytest.mark.parametrize("change", [_other_weight, _other_configuration, _other_module])
def test_a_model_that_differs_is_checked(load: Load, change: Callable[[Any], None]) -> None:
    load(shallow_model("llama"))
    other = shallow_model("llama")
    change(other)
    assert load(other)[1]


@pytest.mark.parametrize(
    ("name", "other"), [("_libraries", lambda: ["another torch"]), ("digest_of", lambda path: "other sources")]
)
def test_with_other_libraries_or_sources_it_is_checked(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str, other: Callable[..., Any]
) -> None:
    load(shallow_model("llama"))
    monkeypatch.setattr(checked_before, name, other)
    assert load(shallow_model("llama"))[1]


def test_a_model_that_fails_its_check_is_checked_again(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = CacheView.attend
    monkeypatch.setattr(CacheView, "attend", lambda *given: sound(*given) * 0)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"our attention in layer 0 is .*% off"):
            load(shallow_model("llama"))
    monkeypatch.setattr(CacheView, "attend", sound)
    assert load(shallow_model("llama"))[1]


def test_of_layers_that_compute_attention_themselves_nothing_is_kept(load: Load, tmp_path: Path) -> None:
    decoder, _ = load(shallow_model("bloom"))
    assert decoder.attends_itself
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = shallow_model("llama")
    known = CheckedBefore(model, tmp_path / "file")
    assert Decoder(model, known).n_layers == 3
    assert not known.passed()
