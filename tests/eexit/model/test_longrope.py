"""A model whose rotary angles switch at a certain length (LongRoPE): each row has the angles of its own length."""

from collections.abc import Sequence

import pytest
import torch
from tiny_models import tiny_model
from traces import assert_same, kl_request
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.rows.requests import Decoding, Failure, Outcome, Request
from eexit.decode.trace import Trace
from eexit.model.decoder import Decoder
from eexit.reference.generation import generate_one

SWITCH = 40
SHORT, LONG = tuple(range(3, 20)), tuple(range(2, 52))
DECODING = Decoding(exitable_layers=(1, 3), max_new_tokens=10, eos_token_ids=frozenset(), record_top_k=2)


@pytest.fixture(scope="module", params=["phi3_longrope", "phimoe"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


def generate(model: PreTrainedModel, requests: Sequence[Request]) -> list[Outcome]:
    outcomes = dict(Engine(Decoder(model), DECODING).generate(requests))
    return [outcomes[index] for index in range(len(requests))]


def test_long_rows_beside_short_ones_are_as_the_model_makes_them_alone(model: PreTrainedModel) -> None:
    requests = [kl_request(prompt, mode, k) for prompt in (SHORT, LONG)
                for mode, k in (("normal", None), ("frozen_residual", 0.5))]  # fmt: skip
    decoder = Decoder(model)
    for request, trace in zip(requests, generate(model, requests), strict=True):
        assert isinstance(trace, Trace)
        assert_same(trace, generate_one(model, decoder, request, DECODING))
        if request.configuration.mode == "normal":
            prompt = torch.tensor([request.prompt_token_ids])
            generated = model.generate(  # type: ignore[operator]  # of a mixin
                prompt, max_new_tokens=10, do_sample=False, pad_token_id=0
            )
            assert trace.token_id_T.tolist() == generated[0, prompt.shape[1] :].tolist()


def test_a_row_ends_where_the_angles_switch(model: PreTrainedModel) -> None:
    prompts = [LONG[: SWITCH - 3], LONG[:SWITCH], LONG[: SWITCH + 1]]
    before, at, behind = generate(model, [kl_request(prompt, "normal", None) for prompt in prompts])
    assert isinstance(before, Trace)
    assert len(before.token_id_T) == 3
    assert before.finish_reason == "length"
    assert isinstance(at, Failure)
    assert "no room in the model's context of 40, where its rotary angles switch" in at.error
    assert isinstance(behind, Trace)
    assert len(behind.token_id_T) == 10
