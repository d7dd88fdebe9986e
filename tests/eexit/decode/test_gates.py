"""Gates: which layers are read behind them, against the reference, by counts, and by scoring."""

from dataclasses import replace

import numpy as np
import pytest
from axes import EXITABLE, some
from references import decoder_of, shared_model
from rows import PROMPTS, SAMPLED, as_reference, generate, modes_of
from traces import assert_same
from transformers import PreTrainedModel
from untrained import LINEAR, WIDTH, random_gate

from eexit.costs.operations import READS
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.score import score
from eexit.plan.configuration import EarlyExit

RULES = ("confidence", "margin", "entropy")  # that a gate can be for


def key_of(model: PreTrainedModel, rule: str) -> str:
    return EarlyExit("unfrozen", rule, some(model, rule)[0]).gated_rule


def gated(
    model: PreTrainedModel, threshold: str | None, sets: tuple[tuple[int, ...], ...] = ((), (4,))
) -> list[Request]:
    """Each rule and mode in turn, with each of these sets."""
    modes = modes_of(model)
    settings = [
        EarlyExit(modes[index % len(modes)], rule, some(model, rule)[0], layers, threshold)
        for layers in sets
        for index, rule in enumerate(RULES * 2)
    ]
    return [Request(PROMPTS[0], setting, seed=3) for setting in settings]


def decoding_of(model: PreTrainedModel, **others: object) -> DecodingConfig:
    return replace(SAMPLED, gate=random_gate([key_of(model, rule) for rule in RULES]), readout=LINEAR, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])  # what passes a gate does not depend on layers
def test_invariant_3_gated_rules_exit_as_the_reference_does(architecture: str) -> None:
    model = shared_model(architecture)
    decoding, passed = decoding_of(model), set()
    requests = [*gated(model, "0.4", ((),)), *gated(model, "0.5", ((4,),))]
    for trace in as_reference(model, requests, decoding):
        assert trace.counts is not None
        gates, reads = (trace.counts.reads_TX(name)[:, :-1] for name in ("gate_reads", "head_reads"))
        seen = ~np.isnan(trace.exit_score_TE[1:])
        assert (reads >= seen).all(), "what is seen is read"
        assert (gates >= seen).all(), "and what is seen is behind the gate"
        passed |= {*(gates - seen).ravel().tolist()}
    assert passed == {0, 1}, "it lets some through and passes some over"


def test_a_threshold_of_0_changes_nothing_and_perfect_knowledge_no_exit(llama: PreTrainedModel) -> None:
    decoding = decoding_of(llama)
    without = generate(llama, gated(llama, None), decoding)
    for threshold in ("0", "perfect"):
        for trace, other in zip(generate(llama, gated(llama, threshold), decoding), without, strict=True):
            assert_same(trace, other)


def test_invariant_8_scoring_gives_the_exits_of_gated_rules(llama: PreTrainedModel) -> None:
    decoding = decoding_of(llama)
    for request in gated(llama, "0.5"):
        [trace] = generate(llama, [request], decoding)
        scored = score(decoder_of(llama), decoding, request, trace.token_id_T.tolist())
        assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist()
        np.testing.assert_allclose(scored.exit_score_TE[1:], trace.exit_score_TE[1:], atol=1e-4)


def test_a_gate_costs_one_product_with_a_vector(llama: PreTrainedModel) -> None:
    unit_costs = measure_unit_costs(decoder_of(llama), decoding_of(llama))
    plain = measure_unit_costs(decoder_of(llama), SAMPLED)
    assert unit_costs.read_XK[:, READS.index("gate_reads")].tolist() == [WIDTH] * len(EXITABLE) + [0]
    assert not plain.read_XK[:, READS.index("gate_reads")].any()
