"""Mode `draft`: the text of full depth, whatever is drafted, and what is run for it."""

from dataclasses import replace

import numpy as np
import pytest
from axes import EXITABLE
from ran import run_alone
from references import decoder_of, shared_model
from rows import ARCHITECTURES, DECODING, KINDS, PROMPTS, SAMPLED, as_reference, assert_as_reference, generate, grid
from traces import kl_request
from transformers import PreTrainedModel
from untrained import LINEAR

from eexit.costs.operations import READS, UnitCosts
from eexit.decode.engine import Engine
from eexit.decode.requests import Request, RequestFailure, RequestOutput
from eexit.plan.configuration import Draft, parse_drafts
from eexit.sweeps.draft_columns import draft_columns

DRAFTS = [Draft(layer, n) for layer, n in ((1, 1), (4, 2), (3, 5), (4, 6))]
REPEATING = (3, 4, 5, 6, 3, 4, 5, 7, 3, 4, 5)


@pytest.mark.parametrize("architecture", KINDS)
def test_greedy_drafts_are_the_text_of_normal_whatever_runs_layers(architecture: str) -> None:
    model, decoding = shared_model(architecture), replace(DECODING, max_new_tokens=8)
    requests = grid(DRAFTS[:3], PROMPTS[1:])
    traces = generate(model, requests, replace(decoding, max_rows=4))
    assert_as_reference(model, requests[1:3], traces[1:3], decoding)  # which is slow
    normal = generate(model, [kl_request(prompt, "normal") for prompt in PROMPTS[1:]], decoding)
    for its, trace in zip([each for each in normal for _ in range(3)], traces, strict=True):
        assert trace.token_id_T.tolist() == its.token_id_T.tolist()
        np.testing.assert_allclose(trace.kl_TE, its.kl_TE, rtol=1e-4, atol=1e-4)
    assert sum(trace.rounds.accepted_R.sum() for trace in traces if trace.rounds) > 0, "some drafts must be right"


@pytest.mark.parametrize("architecture", ["llama", "mistral", "mpt"])  # windows; attention of the model's own
def test_drafts_match_the_naive_reference_whatever_ends_other_rows_and_the_readout(architecture: str) -> None:
    model, readout = shared_model(architecture), LINEAR if architecture == "mistral" else DECODING.readout
    normal = generate(model, [kl_request(prompt, "normal") for prompt in PROMPTS])
    ends = frozenset(int(trace.token_id_T[4 * index + 2]) for index, trace in enumerate(normal))
    traces = as_reference(model, grid(DRAFTS), replace(DECODING, eos_token_ids=ends, readout=readout), rows=4)
    assert len({len(trace.token_id_T) for trace in traces}) > 1, "rows must end at different times"


def test_a_draft_at_a_temperature_fails_with_the_reason(llama: PreTrainedModel) -> None:
    requests = [Request(PROMPTS[0], DRAFTS[0]), kl_request(PROMPTS[0], "normal")]
    outcomes = dict(Engine(decoder_of(llama), SAMPLED).generate(requests))
    assert outcomes[0] == RequestFailure("drafts are greedy, and temperature is 0.8: set it to 0")
    assert isinstance(outcomes[1], RequestOutput)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mpt"])
def test_a_row_runs_what_its_counts_state(architecture: str) -> None:
    draft, decoder = Draft(4, 3), decoder_of(shared_model(architecture))
    priced = architecture in ("llama", "gemma3", "gpt_neox")
    alone = run_alone(decoder, replace(DECODING, record_full_depth="none"), Request(REPEATING, draft), priced=priced)
    trace, counts, rounds = alone.trace, alone.counts, alone.trace.rounds
    assert rounds is not None
    assert counts.kv_layers_T.sum() == 0
    n_read, n_decided = rounds.drafted_R.sum(), len(trace.token_id_T) - 1
    assert alone.ran.reads == n_read + rounds.length_R.sum()
    none_L, read_XK = np.zeros(decoder.n_layers), np.ones((len(EXITABLE) + 1, len(READS)))
    unit_costs = UnitCosts(1, np.array([1, 0, 0, 2, 1, 1, 1]), none_L, none_L, read_XK, [None] * 7, none_L, 0)
    columns = draft_columns(rounds, draft, n_decided, unit_costs, EXITABLE)
    assert columns["layer_calls"] == alone.ran.calls_L.sum()
    assert alone.ran.calls_L[5:].tolist() == [columns["passes"]] * 2
    assert rounds.emitted_R(n_decided).sum() == n_decided
    assert trace.drafted_T.sum() == columns["accepted"]
    assert columns["expected_time"] == (len(rounds.input_index_R) * 8 + n_read * 6) / (8 * n_decided)
    assert alone.columns["macs_required"] == alone.columns["macs_full"] < alone.columns["macs_executed"]


@pytest.mark.parametrize("text", ["", "20", ":4", "20:", "20:x", "20:0", "20:-1", "a:4", "20:4:4", "20:1.5"])
def test_what_is_no_draft_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*(LAYER:N, as in 20:4|must be 1 or more, got)[^\n]*$"):
        parse_drafts(text)
