"""Decoders on simulated accelerators, which tests share: on one card, or with the first layers on another one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Final

import pytest
import torch
from card import DEVICE, OTHER, Card
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.cpu import packed_linear
from eexit.method import linear_map
from eexit.model import loading, quantization
from eexit.model.layers import Decoder
from eexit.plan import model_description
from eexit.training import ridge

N_ON_OTHER: Final = 3  # layers


def card_of(model: PreTrainedModel, path: str) -> torch.device:
    """Return the device of a module of a model over two cards. Weights tied to the head are on the head's card."""
    layer, head = re.search(r"\.(\d+)\b", path), model.get_output_embeddings()
    if layer:
        return OTHER if int(layer[1]) < N_ON_OTHER else DEVICE
    of_head = {id(parameter) for parameter in head.parameters()}
    module = model.get_submodule(path)
    is_head = module is head or any(id(parameter) in of_head for parameter in module.parameters(recurse=False))
    return DEVICE if is_head or re.search("rotary|wpe", path) else OTHER


@cache
def decoder_there(model: PreTrainedModel, spread: bool = False) -> Decoder:
    """Return the decoder of a model on one card or two."""
    with Card() as card:
        return Decoder(card.take(model, partial(card_of, model) if spread else None))


@contextmanager
def models_there() -> Iterator[None]:
    """Load models on the card within the context. Commands find the card as their device; it has no float64."""
    with pytest.MonkeyPatch.context() as patch, Card(has_float64=False) as card:
        load, is_whole = AutoModelForCausalLM.from_pretrained, packed_linear.is_unquantized

        def loaded_there(*args: Any, **kwargs: Any) -> Any:
            loaded = load(*args, **kwargs)
            return (card.take(loaded[0]), loaded[1]) if isinstance(loaded, tuple) else card.take(loaded)

        patch.setattr(AutoModelForCausalLM, "from_pretrained", loaded_there)
        for module in (packed_linear, quantization):
            patch.setattr(module, "is_unquantized", lambda weight: is_whole(getattr(weight, "here", weight)))
        for module in (ridge, linear_map):
            patch.setattr(module, "has_float64", lambda device: device.type == "cpu")
        for module in (loading, model_description):
            patch.setattr(module, "choose_device", lambda device: DEVICE)
        # Another test may have timed a card that has float64.
        patch.setattr(ridge, "adds_in_float64", cache(ridge.adds_in_float64.__wrapped__))
        yield
