"""The lm-evaluation-harness over our engine: `normal` is its own `hf` model, and all others are what scoring says."""

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from byte_model import POSITIONS, save_byte_model
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from traces import traces_of

from eexit.decode.engine import Engine
from eexit.decode.requests import PartialOutput, Request
from eexit.errors import UsageError
from eexit.model.loading import load_model_and_tokenizer
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.studies.harness.__main__ import main
from eexit.studies.harness.early_exit_lm import EarlyExitLM, StopStrings, sampling
from eexit.sweeps.generator import ModelGenerator

LAYERS = (2, 4)
CONFIDENT, ORACLE = EarlyExit("frozen_residual", "confidence", 0.2), EarlyExit("skip", "kl", 0.5)
EARLY = [CONFIDENT, EarlyExit("skip", "margin", 0.1), EarlyExit("unfrozen", "entropy", 4.2), ORACLE]
TO_GO_ON = ("Q: who barks?\nA:", "x", "one two")
CONTEXTS = ("Q: who barks?\nA:", "", "x", "one ", "long " * 60, "<|end|>begins")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> ModelGenerator:
    folder = tmp_path_factory.mktemp("bytes")
    save_byte_model(folder, ends=True)
    prompts = (Prompt(id="", prompt="-"),)
    return ModelGenerator(SweepConfig(model=str(folder), prompts=prompts, dtype="float32", exit_layers=LAYERS), "cpu")


@pytest.fixture(scope="module")
def hf(generator: ModelGenerator) -> HFLM:
    model, tokenizer = load_model_and_tokenizer(generator.config, "cpu")
    return HFLM(model, tokenizer=tokenizer, batch_size=1)


DOCUMENTS = [
    {"question": question, "choices": ["the sky", "a", f"dogs, {at} of them", "No."], "answer": at % 4,
     "page": f"{question} " * (at * 12 + 1)}  # the longest is longer than the model's context
    for at, question in enumerate(("What is blue?", "Who barks?", "Where is Rome?", "Why?", "How many legs, spider? "))
]  # fmt: skip
ASKED, CHOICE, WORDS, PAGES = "Q: {{question}}\nA:", "own_choice", "own_words", "own_pages"
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    CHOICE: {
        "output_type": "multiple_choice", "doc_to_text": ASKED, "doc_to_choice": "choices", "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    WORDS: {
        "output_type": "generate_until", "doc_to_text": ASKED, "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["e", "<|end|>"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
    PAGES: {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    of_all = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **of_all, **task}))  # which is YAML too
    return folder


def exiting(generator: ModelGenerator, configuration: Configuration, **how: Any) -> EarlyExitLM:
    asked: dict[str, Any] = configuration.columns
    return EarlyExitLM(generator, configuration.mode, asked["rule"], asked["parameter"], **how)


def evaluated(lm: Any, folder: Path, *names: str, **settings: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)  # reading all of its own takes seconds
    results = simple_evaluate(lm, tasks=[*names], task_manager=manager, bootstrap_iters=0, **settings)
    assert isinstance(results, dict)
    return results


def requests(*arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance("loglikelihood", {}, its, index) for index, its in enumerate(arguments)]


@pytest.mark.parametrize("in_chat", [False, True], ids=["", "in the chat template"])
def test_normal_is_the_harness_s_own_model(generator: ModelGenerator, hf: HFLM, tasks: Path, in_chat: bool) -> None:
    settings: dict[str, Any] = {"apply_chat_template": True, "system_instruction": "Be brief."} if in_chat else {}
    names = (CHOICE, WORDS) if in_chat else (CHOICE, WORDS, PAGES)
    theirs = evaluated(hf, tasks, *names, **settings)
    ours = evaluated(exiting(generator, NoExit()), tasks, *names, **settings)
    for name in names:
        for metric, value in theirs["results"][name].items():
            approximately = pytest.approx(value, rel=1e-4) if name == PAGES and isinstance(value, float) else value
            assert ours["results"][name][metric] == approximately, metric
        for mine, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert mine["arguments"] == other["arguments"]
            assert name != WORDS or mine["resps"] == other["resps"]
    assert len({sample["resps"][0][0] for sample in theirs["samples"][WORDS]}) > 2


def test_normal_scores_any_context_as_the_harness_s_own_model(generator: ModelGenerator, hf: HFLM) -> None:
    """Empty ones, single tokens, those that begin with the token before an empty one, and too long ones."""
    lm = exiting(generator, NoExit())
    assert lm.max_length == hf.max_length == POSITIONS
    assert len(CONTEXTS[4]) > POSITIONS, "in bytes, which are its tokens"
    pairs = [*product(CONTEXTS, (" dogs", "s", " a few of them, ", "long " * 40))]
    asked = requests(*pairs)
    for pair, mine, theirs in zip(pairs, lm.loglikelihood(asked), hf.loglikelihood(asked), strict=True):
        assert mine[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-3), pair
        assert mine[1] == theirs[1], pair
    any_token = [(None, hf.tok_encode("Q:"), [token]) for token in range(len(hf.tokenizer))]
    greedy = [its for _, its in lm._loglikelihood_tokens(any_token)]
    assert greedy == [its for _, its in hf._loglikelihood_tokens(any_token)]
    assert sum(greedy) == 1


def generated(generator: ModelGenerator, configuration: Configuration, n_tokens: int, **changed: Any) -> list[Any]:
    decoding = replace(generator.engine.decoding, max_new_tokens=n_tokens, temperature=0.0, **changed)
    contexts = [generator.tokenizer.encode(context) for context in TO_GO_ON]
    requests = [Request(tuple(context), configuration, seed=2) for context in contexts]
    traces = traces_of(Engine(generator.engine.decoder, decoding).generate(requests))
    return [(context, traces[index]) for index, context in enumerate(contexts)]


@pytest.mark.parametrize("configuration", EARLY, ids=lambda its: its.key)
@pytest.mark.parametrize("in_prompt", [False, True])
def test_continuations_are_scored(generator: ModelGenerator, configuration: EarlyExit, in_prompt: bool) -> None:
    texts = generated(generator, replace(configuration, prompt_exits=in_prompt), 12, eos_token_ids=frozenset())
    lm = exiting(generator, configuration, seed=2, prompt_exits=in_prompt)
    scores = lm._loglikelihood_tokens([(None, context, trace.token_id_T.tolist()) for context, trace in texts])
    for (logprob, is_greedy), (_, trace) in zip(scores, texts, strict=True):
        assert logprob == pytest.approx(trace.exit_logprob_T.sum(), rel=1e-4, abs=1e-3)
        assert is_greedy
    exits = [layer for _, trace in texts for layer in trace.exit_layer_T[int(not in_prompt) :].tolist()]
    assert lm.exit_layer_counts == Counter(exits)
    assert set(exits) & set(LAYERS)


@pytest.mark.parametrize("configuration", EARLY, ids=lambda its: its.key)
def test_a_single_token_is_scored_as_a_second_one(generator: ModelGenerator, configuration: EarlyExit) -> None:
    single = [(None, context, trace.token_id_T.tolist()) for context, trace in generated(generator, configuration, 1)]
    alone, full = (exiting(generator, its, seed=2) for its in (configuration, NoExit()))
    assert alone._loglikelihood_tokens(single) == full._loglikelihood_tokens(single)
    assert alone.mean_depth is None
    leaving = exiting(generator, configuration, seed=2, first_token_exits=True)
    for context, token in [(context, token) for _, context, [token] in single if len(context) > 1]:
        [(early, _)] = leaving._loglikelihood_tokens([(None, context, [token])])
        ends = [(None, context[:-1], [context[-1], *more]) for more in ([token], [])]
        [(both, _)], [(last, _)] = (alone._loglikelihood_tokens([each]) for each in ends)
        assert early == pytest.approx(both - last, rel=1e-4, abs=1e-3)
    assert leaving._loglikelihood_tokens(single) != full._loglikelihood_tokens(single)


@pytest.mark.parametrize("configuration", EARLY[:2], ids=lambda its: its.key)
def test_texts_are_generated_by_the_rule(generator: ModelGenerator, configuration: Configuration) -> None:
    lm, full = exiting(generator, configuration, seed=2), exiting(generator, NoExit())
    whole = [lm.tok_decode(trace.token_id_T.tolist()) for _, trace in generated(generator, configuration, 24)]
    stop = whole[0][9]
    made = lm.generate_until(requests(*((context, {"until": [stop], "max_gen_toks": 24}) for context in TO_GO_ON)))
    assert made == [text.split(stop)[0] for text in whole]
    assert len(made[0]) < 10
    assert full.generate_until(requests(*((context, {"max_gen_toks": 24}) for context in TO_GO_ON))) != whole


def test_stop_strings_may_be_spelt_in_other_tokens_or_begin_anywhere(generator: ModelGenerator) -> None:
    stops = StopStrings(generator.tokenizer, ["\n\n", "Q:", "<|end|>"])
    for text in ("a\n", "a\n\n", "a\n\n b", "a\n\n bc", "Q", "aQ:", "a<|end|>"):
        row = PartialOutput(Request((), CONFIDENT), generator.tokenizer.encode(text), [])
        assert stops(row) == (text in ("a\n\n", "a\n\n b", "aQ:", "a<|end|>")), text


def test_a_prompt_that_is_sampled_several_times_gets_other_draws_each_time(generator: ModelGenerator) -> None:
    thrice = requests(*[("Q:", {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0})] * 3)
    made = exiting(generator, CONFIDENT).generate_until(thrice)
    assert len(set(made)) == 3
    assert made == exiting(generator, CONFIDENT).generate_until(thrice)


def test_what_can_not_be_done_is_told(generator: ModelGenerator) -> None:
    with pytest.raises(UsageError, match="first_token_exits has no effect with prompt_exits, which include it"):
        exiting(generator, CONFIDENT, prompt_exits=True, first_token_exits=True)
    assert sampling({"do_sample": False, "temperature": 0.0, "top_k": 5, "num_beams": 1}) == (0, 1)
    assert sampling({"do_sample": True, "temperature": 0.5, "top_p": 0.9}) == (0.5, 0.9)
    with pytest.raises(UsageError, match="generation_kwargs have top_k=5, num_beams=2"):
        sampling({"do_sample": True, "temperature": 0.5, "top_k": 5, "num_beams": 2})
    lm = exiting(generator, NoExit())
    with pytest.raises(UsageError, match="a continuation has 300 tokens, and must have 1 to 256"):
        lm.loglikelihood(requests(("Q:", "x" * 300)))
    with pytest.raises(UsageError, match="a text can't be generated: the prompt is empty"):
        lm.generate_until(requests(("", {"max_gen_toks": 3})))
    assert float("-inf") < lm.loglikelihood(requests(("Q:", "x" * 256)))[0][0] < 0


def test_it_is_a_model_there_and_bad_arguments_are_told_in_a_line(
    generator: ModelGenerator, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    options = {"mode": "frozen_residual", "rule": "confidence", "parameter": 0.2, "exit_layers": [2, 4]}
    given = {"pretrained": generator.config.model, "dtype": "float32", **options}
    arguments = ",".join(f"{name}={value}" for name, value in given.items())
    named = ("--include_path", str(tasks), "--tasks", CHOICE, "--output_path", "out")
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "eexit", "--model_args", arguments, *named])
    assert main() == 0
    [written] = tmp_path.rglob("results_*.json")
    results = json.loads(written.read_text())
    by_name = evaluated("eexit", tasks, CHOICE, model_args=given)
    theirs = evaluated(exiting(generator, CONFIDENT), tasks, CHOICE)["results"][CHOICE]
    assert results["results"][CHOICE]["acc,none"] == theirs["acc,none"]
    for about in (results["config"], by_name["config"]):
        assert (about["configuration"], about["exit_layers"]) == (CONFIDENT.key, [2, 4])
        assert 0 < about["mean_depth"] < 1
    for wrong, message in (
        ("mode=skip", "mode and rule belong together, as in mode=skip,rule=confidence,parameter=0.9, got mode=skip"),
        ("rule=kl", "mode and rule belong together"),
        ("mode=skip,rule=confidnce,parameter=0.9", "rules: Value error, unknown rule 'confidnce': did you mean"),
        ("mode=skip,rule=kl,parameter=1,exit_lyers=[2]", "exit_lyers: Extra inputs are not permitted (model_args)"),
    ):
        wrongly = ["lm_eval", "--model", "eexit", "--model_args", f"pretrained=x,{wrong}", *named]
        monkeypatch.setattr(sys, "argv", wrongly)
        assert main() == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
