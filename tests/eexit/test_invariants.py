"""The invariants that must always hold, by number. The engine runs the model with packed weights."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from axes import ALWAYS, EXITABLE, NEVER, SOME
from scipy.stats import chi2
from tiny_models import VOCABULARY, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from eexit import KLExitGenerator
from eexit.anatomy import Decoder
from eexit.config import UsageError
from eexit.configuration import NORMAL, Configuration
from eexit.cpu.packed_linear import pack_linear_layers
from eexit.engine import Engine, refuse_mode
from eexit.reference import LEAVE, STOPS, generate_one
from eexit.rows import Decoding, Request
from eexit.rules import RULES
from eexit.states import STATES
from eexit.trace import Trace

DECODING = Decoding(exitable_layers=EXITABLE, max_new_tokens=24, eos_token_ids=frozenset(), record_top_k=3)
PROMPTS = (tuple(range(3, 16)), (5, 80, 7, 7, 31), (44, 2, 90, 61, 13, 8, 8, 70, 21))


def generate(model: PreTrainedModel, requests: Sequence[Request], decoding: Decoding = DECODING) -> list[Trace]:
    packed = copy.deepcopy(model)
    pack_linear_layers(packed)
    traces = traces_of(Engine(Decoder(packed), decoding).generate(requests))
    return [traces[index] for index in range(len(requests))]


@pytest.fixture(scope="module")
def word_tokenizer() -> PreTrainedTokenizerBase:
    words = WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


def configurations(modes: Iterable[str] = STATES, rules: Iterable[str] = ("kl",)) -> list[Configuration]:
    """`normal`, and these modes with some parameters of these rules."""
    return [
        Configuration(NORMAL),
        *(Configuration(mode, rule, parameter) for mode in modes for rule in rules for parameter in SOME[rule]),
    ]


def grid(
    configurations: Sequence[Configuration] = configurations(), prompts: Sequence[tuple[int, ...]] = PROMPTS
) -> list[Request]:
    return [Request(prompt, configuration, seed=3) for prompt in prompts for configuration in configurations]


def modes_of(model: PreTrainedModel) -> list[str]:
    """Those that can be used with this model, at full depth excepted."""
    decoder, modes = Decoder(model), []
    for mode in STATES:
        with suppress(UsageError):
            refuse_mode(mode, decoder)
            modes.append(mode)
    return modes


def test_every_rule_is_tested() -> None:
    assert SOME.keys() == ALWAYS.keys() == NEVER.keys() == RULES.keys() == STOPS.keys()
    assert {mode for mode in STATES if STATES[mode].first_altered(0) is not None} == LEAVE.keys()


def test_invariant_1_normal_is_greedy_generate(any_model: PreTrainedModel) -> None:
    requests = [kl_request(prompt, "normal", None) for prompt in PROMPTS]
    for prompt, trace in zip(PROMPTS, generate(any_model, requests), strict=True):
        generated = any_model.generate(  # type: ignore[operator]  # of a mixin
            torch.tensor([prompt]), max_new_tokens=DECODING.max_new_tokens, do_sample=False, pad_token_id=0
        )
        assert trace.token_id_T.tolist() == generated[0, len(prompt) :].tolist()


def test_invariant_2_the_ends_of_the_kl_rule(any_model: PreTrainedModel) -> None:
    check_ends(any_model, "kl", modes_of(any_model))


@pytest.mark.parametrize("rule", RULES)
def test_invariant_2_the_ends_of_every_rule(llama: PreTrainedModel, rule: str) -> None:
    check_ends(llama, rule, list(STATES))


def check_ends(model: PreTrainedModel, rule: str, modes: Sequence[str]) -> None:
    always = [Configuration(mode, rule, parameter) for mode in modes for parameter in ALWAYS[rule]]
    never = [Configuration(mode, rule, parameter) for mode in modes for parameter in NEVER[rule]]
    normal, *traces = generate(model, grid([Configuration(NORMAL), *always, *never], PROMPTS[:1]))
    for trace in traces[: len(always)]:
        assert (trace.exit_layer_T[1:] == EXITABLE[0]).all()
    for trace in traces[len(always) :]:
        assert trace.token_id_T.tolist() == normal.token_id_T.tolist()
        assert (trace.exit_layer_T == model.config.num_hidden_layers - 1).all()


def test_invariant_3_the_seeds_rule_and_states_match_the_naive_reference(any_model: PreTrainedModel) -> None:
    requests = grid(configurations(["unfrozen", "frozen_residual"]))
    seen = check_reference(any_model, requests)
    assert seen == {*EXITABLE, any_model.config.num_hidden_layers - 1}, "the comparison must cover every exit"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", STATES)
def test_invariant_3_every_rule_and_state_matches_the_naive_reference(
    llama: PreTrainedModel, mode: str, rule: str
) -> None:
    seen = check_reference(llama, grid(configurations([mode], [rule])))
    assert len(seen) > 1


def check_reference(model: PreTrainedModel, requests: Sequence[Request], decoding: Decoding = DECODING) -> set[int]:
    """Returns the layers that were exited at."""
    decoder, seen = Decoder(model), set()
    for request, trace in zip(requests, generate(model, requests, decoding), strict=True):
        assert_same(trace, generate_one(model, decoder, request, decoding))
        seen |= set(trace.exit_layer_T.tolist())
    return seen


def test_invariant_3_holds_for_the_kl_generator(
    any_model: PreTrainedModel, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    generator = KLExitGenerator(any_model, word_tokenizer, "frozen_residual", EXITABLE)
    inputs = {"input_ids": torch.tensor(PROMPTS[1:2])}
    _, exit_layers, prediction = generator.generate(inputs, kl_strength=0.5, max_new_tokens=12, seed=3)
    decoding = replace(DECODING, max_new_tokens=12)
    request = kl_request(PROMPTS[1], "frozen_residual", 0.5, seed=3)
    expected = generate_one(any_model, generator.decoder, request, decoding)
    assert prediction.token_ids == expected.token_id_T.tolist()
    assert exit_layers == expected.exit_layer_T.tolist()
    np.testing.assert_allclose(prediction.kl, expected.kl_TE, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"readout": "raw"},
        {"temperature": 0.8, "top_p": 0.9},
        {"exitable_layers": (5,)},
        {"exitable_layers": (0, 1, 2, 3, 4, 5)},
        {"eos_token_ids": frozenset(range(0, 97, 7))},
    ],
    ids=lambda change: "-".join(change),
)
def test_invariant_3_holds_however_rows_decode(llama: PreTrainedModel, change: dict[str, Any]) -> None:
    decoding, fitting = replace(DECODING, **change), []
    for configuration in configurations(rules=RULES):
        with suppress(ValueError):  # a parameter that names other layers
            if configuration.rule:
                RULES[configuration.rule].setting(configuration.parameter, decoding.exitable_layers)
            fitting.append(configuration)
    check_reference(llama, grid(fitting, PROMPTS[:2]), decoding)


def test_invariant_4_a_row_is_the_same_alone_and_beside_others(any_model: PreTrainedModel) -> None:
    requests = grid([Configuration(NORMAL), *(Configuration(mode, "kl", 0.5) for mode in modes_of(any_model))])
    together = generate(any_model, requests)
    for index in (0, 4, 8):  # another mode and another prompt each
        assert_same(together[index], generate(any_model, [requests[index]])[0])


@pytest.mark.parametrize("architecture", ["llama", "mpt"])  # our attention, and layers that attend by themselves
def test_invariant_4_a_row_does_not_depend_on_its_neighbours(architecture: str) -> None:
    model = tiny_model(architecture)
    exits = configurations(modes_of(model), RULES)
    requests = [replace(request, seed=seed) for seed in (0, 1) for request in grid(exits)]
    decoding = replace(DECODING, eos_token_ids=frozenset({0, 9, 33}), temperature=0.7)
    together = generate(model, requests, decoding)
    shuffled = np.random.default_rng(0).permutation(len(requests))
    reordered = generate(model, [requests[index] for index in shuffled], decoding)
    few_at_a_time = generate(model, requests, replace(decoding, rows=3))
    for index, (request, trace) in enumerate(zip(requests, together, strict=True)):
        assert_same(trace, generate(model, [request], decoding)[0])
        assert_same(trace, few_at_a_time[index])
        assert_same(trace, reordered[int(np.flatnonzero(shuffled == index)[0])])
    assert len({len(trace.token_id_T) for trace in together}) > 2, "rows must end at different times"


@pytest.mark.parametrize("rule", RULES)
def test_invariant_5_exits_happen_as_often_as_their_probabilities_say(llama: PreTrainedModel, rule: str) -> None:
    decoding = replace(DECODING, max_new_tokens=40, temperature=1.0)
    requests = [Request(PROMPTS[1], Configuration("unfrozen", rule, SOME[rule][-1]), seed) for seed in range(150)]
    traces = generate(llama, requests, decoding)
    exit_layer = np.concatenate([trace.exit_layer_T[1:] for trace in traces])
    probability = np.concatenate([trace.exit_prob_TX[1:] for trace in traces]).astype(np.float64)
    assert len(exit_layer) >= 5000
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)
    observed = np.array([(exit_layer == layer).sum() for layer in (*EXITABLE, 6)])
    expected = probability.sum(0)
    assert not observed[expected == 0].any()
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert (expected > 50).all(), "every exit must be likely enough to be counted"
    # Draws with different probabilities vary less than the multinomial that χ² assumes: the test is conservative.
    assert ((observed - expected) ** 2 / expected).sum() < chi2.ppf(0.999, max(1, len(expected) - 1))
