"""What tests share, since it is made again and again: tiny models, their decoders, and rows of the naive reference."""

import copy
from functools import cache

from tiny_models import tiny_model
from transformers import PreTrainedModel

from eexit.anatomy import Decoder
from eexit.cpu.packed_linear import pack_linear_layers
from eexit.reference import generate_one
from eexit.rows import Decoding, Request
from eexit.trace import Trace

shared_model = cache(tiny_model)  # for tests that leave it as it was


@cache
def decoder_of(model: PreTrainedModel) -> Decoder:
    return Decoder(model)


@cache
def packed_decoder_of(model: PreTrainedModel) -> Decoder:
    """Of a copy of the model with packed weights."""
    packed = copy.deepcopy(model)
    pack_linear_layers(packed)
    return Decoder(packed)


@cache
def reference_of(model: PreTrainedModel, request: Request, decoding: Decoding) -> Trace:
    return generate_one(model, decoder_of(model), request, decoding)
