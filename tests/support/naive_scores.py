"""Scores of a text, token by token, by the naive reference: `eexit.decode.score` has to agree with them."""

from collections.abc import Sequence
from dataclasses import replace

from reference.generation import generate_one
from transformers import PreTrainedModel

from eexit.decode.requests import DecodingConfig, Request
from eexit.model.layers import Decoder


def score_naively(
    model: PreTrainedModel, decoder: Decoder, decoding: DecodingConfig, request: Request, text: Sequence[int]
) -> list[tuple[int, float, int]]:
    """Return exit layer, log-probability and likeliest token per token but the first."""
    if len(text) + len(request.prompt_token_ids) < 2:
        return []
    decoding = replace(decoding, max_new_tokens=len(text), eos_token_ids=frozenset(), record_top_k=1)
    trace = generate_one(model, decoder, request, decoding, forced=text)
    columns = trace.exit_layer_T, trace.exit_logprob_T, trace.exit_top_token_ids_TK[:, 0]
    return [*zip(*(column.tolist() for column in columns), strict=True)][len(request.prompt_token_ids) > 0 :]
