"""The grid of equivalence tests: prompts × modes × rules × parameters on tiny models."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from axes import EXITABLE, some
from references import decoder_of, packed_decoder_of, reference_of
from traces import assert_same, traces_of
from transformers import PreTrainedModel
from untrained import KV_MAPS, PROBE

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.decode.score import score_texts
from eexit.method.modes import MODES
from eexit.method.rules import RULES
from eexit.model.layers import Decoder
from eexit.plan.configuration import Configuration, EarlyExit, NoExit

DECODING = DecodingConfig(
    EXITABLE, max_new_tokens=16, eos_token_ids=frozenset(), probe=PROBE, kv_maps=KV_MAPS, record_top_k=3
)
SAMPLED = replace(DECODING, max_new_tokens=8, temperature=0.8)  # beyond sliding windows
ENDING = replace(SAMPLED, eos_token_ids=frozenset(range(0, 97, 11)))  # outputs of different lengths
MY_EXITS = Path(__file__).with_name("my_exits.py")
PROMPTS = (tuple(range(3, 16)), (5, 80, 7, 7, 31), (44, 2, 90, 61, 13, 8, 8, 70, 21))
ARCHITECTURES = ("llama", "gemma3", "gpt_neox", "mixtral")  # every rule and every mode is tested with them
# One model for each way in which layers are called, for tests of the engine beyond invariants 1 and 3.
KINDS = (
    *ARCHITECTURES,  # without windows and with; queries, keys and values from one matrix; experts
    "gpt2", "opt",  # arguments by position and learned positions; a projection before the head
    "gemma4",  # arguments by token ids
    "phimoe", "deepseek_v3", "gpt_oss",  # angles that switch at a length; keys that are expanded; sinks
    "gpt_neo", "falcon", "bloom", "mpt", "diffllama",  # non-standard attention, each with other arguments
)  # fmt: skip


def generate(
    model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig = DECODING
) -> list[RequestOutput]:
    traces = traces_of(Engine(packed_decoder_of(model), decoding).generate(requests))
    return [traces[index] for index in range(len(requests))]


def assert_as_reference(
    model: PreTrainedModel, requests: Sequence[Request], traces: Sequence[RequestOutput], decoding: DecodingConfig
) -> None:
    for request, trace in zip(requests, traces, strict=True):
        assert_same(trace, reference_of(model, request, decoding))


def as_reference(
    model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig, rows: int | None = None
) -> list[RequestOutput]:
    """Return generated outputs, and assert that each equals the naive reference's. At most `rows` slots are used."""
    traces = generate(model, requests, decoding if rows is None else replace(decoding, max_rows=rows))
    assert_as_reference(model, requests, traces, decoding)
    return traces


def assert_scored_alike(
    decoder: Decoder, requests: Sequence[Request], traces: Sequence[RequestOutput], decoding: DecodingConfig,
    student: Decoder | None = None,
) -> None:  # fmt: skip
    """Assert that scoring each text gives the exits with which it was generated (invariant 8)."""
    for request, trace in zip(requests, traces, strict=True):
        [scored] = score_texts(decoder, decoding, request, [trace.token_id_T.tolist()], student)
        assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist(), request
        for name in ("exit_logprob_T", "exit_prob_TX", "exit_score_TE"):
            mine, other = getattr(scored, name), getattr(trace, name)
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4, err_msg=name)
        first = trace.first_decided
        assert scored.exit_token_T[first:].tolist() == trace.exit_top_token_ids_TK[first:, 0].tolist()


def exits_of(traces: Iterable[RequestOutput]) -> set[int]:
    """Return the layers that tokens were decided to exit at."""
    return {layer for trace in traces for layer in trace.decided_exit_layer_T.tolist()}


def configurations(
    model: PreTrainedModel, modes: Iterable[str] | None = None, rules: Iterable[str] = RULES
) -> list[Configuration]:
    """Return `normal`, and these modes (all that can be used) with some parameters of these rules."""
    modes = modes_of(model) if modes is None else modes
    return [
        NoExit(),
        *(EarlyExit(mode, rule, parameter) for mode in modes for rule in rules for parameter in some(model, rule)),
    ]


def each_rule(model: PreTrainedModel, shift: int) -> list[Configuration]:
    """Return `normal`, and each rule with its first parameter in one mode after the other, offset by `shift`."""
    modes = modes_of(model)
    in_turn = [(modes[(shift + index) % len(modes)], rule) for index, rule in enumerate(RULES)]
    return [NoExit(), *(EarlyExit(mode, rule, some(model, rule)[0]) for mode, rule in in_turn)]


def grid(configurations: Sequence[Configuration], prompts: Sequence[tuple[int, ...]] = PROMPTS) -> list[Request]:
    return [Request(prompt, configuration, seed=3) for prompt in prompts for configuration in configurations]


def modes_of(model: PreTrainedModel) -> list[str]:
    """Return the modes that can be used with this model, without `normal`."""
    return [name for name, mode in MODES.items() if not mode.obstacle(decoder_of(model))]


@cache
def together(model: PreTrainedModel) -> tuple[list[Request], list[RequestOutput]]:
    """Return outputs of `normal`, of rule kl in two modes and of an online rule in every mode, generated in one batch.

    Each parameter of rule kl occurs in both modes, with one prompt each.
    """
    modes, (often, seldom) = ("unfrozen", "frozen_residual"), some(model, "kl")
    requests = []
    for prompt, (first, second) in zip(PROMPTS, (modes, modes[::-1]), strict=False):
        requests += grid([NoExit(), EarlyExit(first, "kl", often), EarlyExit(second, "kl", seldom)], [prompt])
    requests += grid(configurations(model, rules=["confidence"])[1:], PROMPTS[:1])
    return requests, generate(model, requests, SAMPLED)
