"""Arguments of layers for some rows of a batch, and rotary angles that switch at a length: each row has its own."""

from collections.abc import Sequence

import pytest
import torch
from eexit.model.layer_calls import CallsFor, LayerCall, row_axes
from eexit.model.views import CacheView
from references import decoder_of, shared_model
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Decoding, Failure, Outcome, Request, Trace
from eexit.model.cache import KVCache
from eexit.reference.generation import generate_one

N_HEADS = 4


def call_for(n_rows: int, view: CacheView) -> LayerCall:
    """A bias that is not the rows', one per head; one of each row and head; a mask of each row; angles of each."""
    row_B = torch.arange(n_rows)
    per_row_and_head = row_B.repeat_interleave(N_HEADS)[:, None]
    return LayerCall(
        (torch.arange(N_HEADS)[:, None], None),
        {"alibi": per_row_and_head, "cache": view, "angles": (row_B[:, None], row_B[None].expand(2, -1)), "flag": True},
    )


def test_a_call_for_some_rows_has_what_is_theirs_and_all_of_what_is_nobodys() -> None:
    positions = torch.zeros(N_HEADS, 1, dtype=torch.long)  # as many rows as heads: which is which can't be told by size
    whole = CacheView(KVCache(N_HEADS, 8), positions, 1)
    rows = torch.tensor([3, 1])
    some = whole.among(rows)
    axes = row_axes([call_for(2, whole)], [call_for(3, whole)])
    [call] = CallsFor([call_for(N_HEADS, whole)], axes, whole, rows, some)
    assert call.args[0].flatten().tolist() == [0, 1, 2, 3]
    assert call.args[1] is None
    assert call.kwargs["alibi"].flatten().tolist() == N_HEADS * [3] + N_HEADS * [1]
    assert call.kwargs["cache"] is some
    assert [angles.tolist() for angles in call.kwargs["angles"]] == [[[3], [1]], [[3, 1], [3, 1]]]
    assert call.kwargs["flag"] is True


def test_as_many_rows_as_heads_decode_as_one_does() -> None:
    mpt = shared_model("mpt")
    decoding = Decoding(exitable_layers=(1, 3, 4), max_new_tokens=8, eos_token_ids=frozenset(), record_top_k=1)
    engine = Engine(decoder_of(mpt), decoding)
    requests = [kl_request((5, 80, token), "frozen_residual", 0.5) for token in range(mpt.config.n_heads)]
    together = traces_of(engine.generate(requests))
    for index, request in enumerate(requests):
        [alone] = traces_of(engine.generate([request])).values()
        assert together[index].token_id_T.tolist() == alone.token_id_T.tolist()
        assert together[index].exit_layer_T.tolist() == alone.exit_layer_T.tolist()


SWITCH = 40
SHORT, LONG = tuple(range(3, 20)), tuple(range(2, 52))
DECODING = Decoding(exitable_layers=(1, 3), max_new_tokens=10, eos_token_ids=frozenset(), record_top_k=2)


@pytest.fixture(scope="module", params=["phi3_longrope", "phimoe"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return shared_model(request.param)


def generate(model: PreTrainedModel, requests: Sequence[Request]) -> list[Outcome]:
    outcomes = dict(Engine(decoder_of(model), DECODING).generate(requests))
    return [outcomes[index] for index in range(len(requests))]


def test_long_rows_beside_short_ones_are_as_the_model_makes_them_alone(model: PreTrainedModel) -> None:
    requests = [kl_request(prompt, mode, k) for prompt in (SHORT, LONG)
                for mode, k in (("normal", None), ("frozen_residual", 0.5))]  # fmt: skip
    decoder = decoder_of(model)
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
