"""A student with weights of its own beside the base model: in both loops, observed afterwards, and in scoring."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from axes import some
from references import decoder_of, reference_of, save_adapter, shared_model
from rows import PROMPTS, SAMPLED, modes_of
from traces import assert_same, traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.decode.score import score
from eexit.method.rules import BLIND, ONLINE, ORACLES
from eexit.model.adapters import merged
from eexit.plan.configuration import NORMAL, Configuration, EarlyExit, NoExit

DECODING = replace(SAMPLED, max_new_tokens=6, eos_token_ids=frozenset(range(0, 97, 11)))


def requests_for(model: PreTrainedModel, rules: Sequence[str]) -> list[Request]:
    """`normal`, and every mode with these rules."""
    found: list[Configuration] = [NoExit()]
    found += [EarlyExit(mode, rule, some(model, rule)[-1]) for rule in rules for mode in modes_of(model)]
    return [Request(PROMPTS[seed % 2], each, seed) for seed, each in enumerate(found)]


def generate(
    base: PreTrainedModel,
    requests: Sequence[Request],
    student: PreTrainedModel | None,
    decoding: DecodingConfig = DECODING,
) -> list[RequestOutput]:
    engine = Engine(decoder_of(base), decoding, None if student is None else decoder_of(student))
    traces = traces_of(engine.generate(requests))
    return [traces[index] for index in range(len(requests))]


@pytest.fixture(scope="module")
def student(llama: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return merged(llama, save_adapter(llama, tmp_path_factory.mktemp("adapter")))


def check(base: PreTrainedModel, student: PreTrainedModel, rules: Sequence[str]) -> None:
    """What a student generates is the naive reference's, as rows come and go, and has the same exits when scored."""
    requests, decoders = requests_for(base, rules), (decoder_of(base), decoder_of(student))
    traces = generate(base, requests, student, replace(DECODING, max_rows=5))
    seen: dict[str, set[int]] = {}
    for request, trace in zip(requests, traces, strict=True):
        assert_same(trace, reference_of(base, request, DECODING, student))
        rule = request.configuration.columns["rule"]
        assert (trace.counts is None) == (rule in ORACLES)
        seen.setdefault(str(rule or NORMAL), set()).update(trace.exit_layer_T[1:].tolist())
        if request.seed % 3:
            continue
        scored = score(decoders[0], DECODING, request, trace.token_id_T.tolist(), decoders[1])
        assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist(), request
        for name in ("exit_logprob_T", "exit_prob_TX", "exit_score_TE"):
            mine, other = getattr(scored, name), getattr(trace, name)
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4, err_msg=name)
    assert len({len(trace.token_id_T) for trace in traces}) > 1, "rows must end at different times"
    assert all(len(seen[rule]) > 1 for rule in rules if rule != "fixed"), seen


@pytest.mark.parametrize("rules", [list(ORACLES), list(ONLINE), list(BLIND)], ids=["oracles", "online", "blind"])
def test_a_student_is_the_naive_reference_under_every_rule_and_state(
    llama: PreTrainedModel, student: PreTrainedModel, rules: list[str]
) -> None:
    check(llama, student, rules)


@pytest.mark.parametrize("architecture", ["gemma3", "mpt"])  # windows; attention of the model's own
def test_a_student_is_the_naive_reference_on_other_architectures(
    tmp_path_factory: pytest.TempPathFactory, architecture: str
) -> None:
    base = shared_model(architecture)
    check(base, merged(base, save_adapter(base, tmp_path_factory.mktemp("adapter"))), ["kl", "confidence"])
