"""Cached objects that tests share: tiny models, their decoders, and outputs of the naive reference."""

import copy
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, cast

import torch
from axes import EXITABLE
from peft import LoraConfig, get_peft_model
from reference.drafts import draft_one
from reference.generation import generate_one
from remembering import Remembering
from tiny_models import tiny_model
from transformers import PreTrainedModel

from eexit.costs.operations import UnitCosts
from eexit.cpu.packed_linear import pack_linear_layers
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.model.layers import Decoder
from eexit.plan.configuration import Draft

ATTENTION_MODULES: Final = ("q_proj", "v_proj", "o_proj", "Wqkv", "query_key_value", "c_attn")  # of any architecture

shared_model = cache(tiny_model)  # for tests that don't change it


@cache
def decoder_of(model: PreTrainedModel) -> Decoder:
    return Decoder(model)


@cache
def packed_decoder_of(model: PreTrainedModel) -> Decoder:
    """Return the decoder of a copy of the model with packed weights."""
    packed = copy.deepcopy(model)
    pack_linear_layers(packed)
    return Decoder(packed)


@cache
def unit_costs_of(decoder: Decoder) -> UnitCosts:
    return measure_unit_costs(decoder, DecodingConfig(EXITABLE, 2, frozenset()))


@cache
def remembering(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with a cached forward, for the reference, which uses only forward, configuration and device."""
    return cast(PreTrainedModel, Remembering(model))


@cache
def reference_of(
    model: PreTrainedModel, request: Request, decoding: DecodingConfig, student: PreTrainedModel | None = None
) -> RequestOutput:
    if isinstance(request.configuration, Draft):
        return draft_one(remembering(model), decoder_of(model), request, decoding)
    own = None if student is None else (remembering(student), decoder_of(student))
    return generate_one(remembering(model), decoder_of(model), request, decoding, own)


def save_adapter(
    model: PreTrainedModel, folder: Path, modules: Sequence[str] = ATTENTION_MODULES, zero: bool = False
) -> str:
    """Save a LoRA adapter for the listed modules that the model has: random, or without effect if `zero`."""
    torch.manual_seed(1)
    there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    config = LoraConfig(r=4, target_modules=[name for name in modules if name in there], init_lora_weights=zero)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses what transformers has deprecated
        get_peft_model(copy.deepcopy(model), config).save_pretrained(str(folder))
    return str(folder)
