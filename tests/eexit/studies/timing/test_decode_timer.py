"""What is timed: the same prompts and tokens for the engine and for `generate`, whatever ends a text elsewhere.

No time is asserted, but that of a clock that the test controls.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from byte_model import POSITIONS, save_byte_model
from scripted import sweep_of

from eexit.costs.operations import multiply_adds, required_ops
from eexit.decode.engine import Engine
from eexit.decode.requests import Request
from eexit.errors import UsageError
from eexit.plan.configuration import LOOKUP, Draft, EarlyExit, HFGenerate, NoExit
from eexit.plan.sweep_config import SweepConfig
from eexit.studies.timing import decode_timer as timing
from eexit.studies.timing.decode_timer import Alternative, DecodeTimer, Stopwatch, batches
from eexit.studies.timing.plain_generate import generate_greedily, settings_of

TOKENS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every likeliest token would end a text, or be made unlikely for being there already."""
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    generation = {"eos_token_id": list(range(256)), "repetition_penalty": 9.0, "temperature": 0.5, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def config_of(folder: Path, *prompts: str) -> SweepConfig:
    return sweep_of(folder, *prompts, exit_every=2, rules={"fixed": (2.0,)}, temperature=0.7)


@pytest.fixture(scope="module")
def alternatives(folder: Path) -> DecodeTimer:
    return DecodeTimer(config_of(folder, "one", "two and", "", "x" * POSITIONS), "cpu", TOKENS)


def test_prompts_without_room_for_the_tokens_are_left_out(folder: Path, alternatives: DecodeTimer) -> None:
    assert list(map(len, alternatives.prompts)) == [3, 7]
    with pytest.raises(UsageError, match="none of the 2 prompts can be followed by 254 tokens: there is room for 253"):
        DecodeTimer(config_of(folder, "one", "two and"), "cpu", POSITIONS - 2)
    with pytest.raises(UsageError, match="normal can't be timed: the prompt has 256 tokens, which leaves no room"):
        alternatives.time(NoExit(), 1, [(1,) * POSITIONS])


def test_generate_makes_the_tokens_of_the_engine_at_full_depth_with_lookup_too(alternatives: DecodeTimer) -> None:
    decoding = replace(alternatives.decoding, max_new_tokens=TOKENS)
    requests = [Request(prompt, NoExit()) for prompt in alternatives.prompts]
    outcomes = dict(Engine(alternatives.decoder, decoding).generate(requests))
    made = generate_greedily(alternatives.plain, alternatives.prompts, TOKENS)
    assert made.tolist() == [outcomes[row].token_id_T.tolist() for row in range(2)]  # type: ignore[union-attr]
    assert settings_of(HFGenerate(variant=LOOKUP)) == {"prompt_lookup_num_tokens": 5}
    timed: list[Alternative] = [HFGenerate(), HFGenerate(variant=LOOKUP), NoExit()]
    plain, looked_up, normal = (alternatives.time(each, 1, alternatives.prompts)[1] for each in timed)
    assert looked_up == plain == normal


def test_costs_are_those_of_the_timed_tokens(alternatives: DecodeTimer) -> None:
    """Whatever a row's second token cost, which is decided before the clock starts."""
    layer_X = np.array([*alternatives.decoding.exitable_layers, alternatives.decoder.n_layers - 1])
    counts = required_ops(np.full(TOKENS - 2, layer_X[-1]), layer_X, None)
    full = sum(multiply_adds(alternatives.unit_costs, counts, len(prompt) + 1) for prompt in alternatives.prompts)
    normal, _ = alternatives.time(NoExit(), 2, alternatives.prompts)
    assert (normal.macs_full, normal.macs_required, normal.macs_executed) == (full, full, full)
    fixed, _ = alternatives.time(EarlyExit("unfrozen", "fixed", 2.0), 1, alternatives.prompts)
    assert fixed.macs_full == full
    assert (fixed.macs_required or 0) <= (fixed.macs_executed or full) < full
    generate, _ = alternatives.time(HFGenerate(), 2, alternatives.prompts)
    assert (generate.macs_full, generate.macs_required, generate.macs_executed) == (None, None, None)
    drafts, _ = alternatives.time(Draft(alternatives.decoding.exitable_layers[-1], 3), 2, alternatives.prompts)
    assert 0 <= (drafts.accepted or 0) <= (drafts.drafted or 0) > 0
    assert drafts.macs_full == drafts.macs_required
    assert (drafts.macs_full or 0) < (drafts.macs_executed or 0), "with what their rounds cost"


def test_the_clock_runs_from_the_second_token_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 14.5])
    monkeypatch.setattr(timing, "now", lambda device: next(moments))
    watch = Stopwatch(torch.device("cpu"), 3)
    for n_tokens in (1, 2, 3, 3):
        watch.progress(n_tokens)
    assert watch.stop() == 4.5
    a, b, c = (1,), (2,), (3,)  # prompts repeat to fill the last batch
    assert [batches([a, b, c], n) for n in (2, 7)] == [[[a, b], [c, a]], [[a, b, c, a, b, c, a]]]
