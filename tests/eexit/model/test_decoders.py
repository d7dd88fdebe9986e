"""A student with weights of its own beside the base model: in both loops, recorded afterwards, and in scoring."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from axes import some
from references import decoder_of, reference_of, save_adapter, shared_model
from rows import ENDING, PROMPTS, assert_scored_alike, exits_of, modes_of
from traces import assert_same, traces_of

from eexit.decode.engine import Engine
from eexit.decode.requests import Request
from eexit.method.rules import BLIND, ONLINE, ORACLES
from eexit.model.adapters import merged
from eexit.plan.configuration import Configuration, EarlyExit, NoExit

DECODING = replace(ENDING, max_new_tokens=6)


@pytest.mark.parametrize(
    ("architecture", "rules"),
    [
        *(("llama", list(rules)) for rules in (ORACLES, ONLINE, BLIND)),
        ("gemma3", ["kl", "confidence"]),  # windows
        ("mpt", ["kl", "confidence"]),  # attention of the model's own
    ],
)
def test_invariants_3_and_8_hold_for_a_student(tmp_path: Path, architecture: str, rules: Sequence[str]) -> None:
    """As rows come and go, whatever is recorded."""
    base = shared_model(architecture)
    student = merged(base, save_adapter(base, tmp_path))
    decoders = decoder_of(base), decoder_of(student)
    exits = [EarlyExit(mode, rule, some(base, rule)[-1]) for rule in rules for mode in modes_of(base)]
    configurations: list[Configuration] = [NoExit(), *exits]
    requests = [Request(PROMPTS[seed % 2], each, seed) for seed, each in enumerate(configurations)]
    decodings = (replace(DECODING, max_rows=5, record_full_depth=record) for record in ("all", "none"))
    traces, less = (traces_of(Engine(decoders[0], each, decoders[1]).generate(requests)) for each in decodings)
    for index, trace in traces.items():
        assert_same(trace, reference_of(base, requests[index], DECODING, student))
        assert less[index].token_id_T.tolist() == trace.token_id_T.tolist()
        assert less[index].exit_layer_T.tolist() == trace.exit_layer_T.tolist()
    some_traces = [traces[at] for at in range(0, len(requests), 3)]
    assert_scored_alike(decoders[0], requests[::3], some_traces, DECODING, decoders[1])
    assert len({len(trace.token_id_T) for trace in traces.values()}) > 1, "rows must end at different times"
    for rule in {*rules} - {"fixed"}:
        its = [traces[at] for at, each in enumerate(requests) if each.configuration.columns["rule"] == rule]
        assert len(exits_of(its)) > 1
