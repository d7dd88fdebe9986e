"""Layers with their own attention code: a model that gives them wrong arguments is refused when it is loaded."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
import transformers as tf
from eexit.model.views import CacheView, TokensView
from tiny_models import SIZES, shallow_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from eexit.errors import UsageError
from eexit.model.layers import Decoder

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYER = 2  # the last one
SELF_ATTENDING = ["xglm", "gpt_neo", "falcon", "falcon_alibi", "bloom", "mpt"]


def other_rows(part: Tensor) -> Tensor:
    return part if len(part) == 1 else part.roll(1, 0)


BROKEN: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "no values": lambda keys, values: (keys, values * 0),
    "keys of other positions": lambda keys, values: (keys.roll(1, 2), values),
    "other rows' keys": lambda keys, values: (other_rows(keys), values),
    "other rows' values": lambda keys, values: (keys, other_rows(values)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("architecture", ["falcon", "bloom", "mpt"])
def test_wrong_keys_and_values_are_refused(
    monkeypatch: pytest.MonkeyPatch, architecture: str, how: str, dtype: torch.dtype
) -> None:
    sound = CacheView.update

    def update(view: CacheView, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = sound(view, key, value, layer)
        return BROKEN[how](keys, values) if layer == LAYER else (keys, values)

    monkeypatch.setattr(CacheView, "update", lambda view, key, value, layer, *_, **__: update(view, key, value, layer))
    with pytest.raises(UsageError, match=rf"what layer {LAYER} adds for .* is .*% off"):
        Decoder(shallow_model(architecture, dtype))


@pytest.mark.parametrize("architecture", SELF_ATTENDING)
def test_wrong_values_for_tokens_by_themselves_are_refused(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """In the view of online, drafting and scoring passes alone."""

    def update(view: CacheView, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> Any:
        keys, values = CacheView.update(view, key, value, layer)
        return keys, values * (layer != LAYER)

    monkeypatch.setattr(TokensView, "update", update)
    with pytest.raises(UsageError, match=rf"what layer {LAYER} adds for several tokens of a row is .*% off"):
        Decoder(shallow_model(architecture))


@pytest.mark.parametrize("architecture", SELF_ATTENDING)
def test_what_goes_wrong_at_far_positions_only_is_refused(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    sound = CacheView.update

    def update(
        view: CacheView, key: Tensor, value: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = sound(view, key, value, layer)
        return (keys, values * 0.9) if view.reach > 40 and layer == LAYER else (keys, values)

    monkeypatch.setattr(CacheView, "update", update)
    with pytest.raises(UsageError, match=rf"what layer {LAYER} adds at position \d+(, beside another,)? is .*% off"):
        Decoder(shallow_model(architecture))


@pytest.mark.parametrize("architecture", SELF_ATTENDING)
def test_padding_that_is_attended_to_is_refused(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(CacheView, "attention_mask", lambda view: torch.ones_like(view.key_position_BS))
    with pytest.raises(UsageError, match=r"what layer 0 adds for a token behind a prompt is .*% off"):
        Decoder(shallow_model(architecture))


@pytest.mark.parametrize("architecture", SELF_ATTENDING)
def test_padding_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    sound = CacheView.__dict__["key_position_BS"].func
    shifted = cached_property(lambda view: sound(view) - 1)
    shifted.__set_name__(CacheView, "key_position_BS")
    monkeypatch.setattr(CacheView, "key_position_BS", shifted)
    with pytest.raises(UsageError, match=r"what layer 0 adds for a prompt is .*% off"):
        Decoder(shallow_model(architecture))


def test_positions_that_follow_the_longest_row_are_refused() -> None:
    """The decoder of TrOCR counts positions by the cache's length, and takes none."""
    config = tf.TrOCRConfig(**SIZES | {"max_position_embeddings": 64}, decoder_layers=7, decoder_attention_heads=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UsageError, match="it takes no position_ids, and rows of different length"):
        Decoder(model)
