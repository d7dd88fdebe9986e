"""Drawn prompts: the same for a seed forever, of the stated distribution, and the command's file.

Each kind accepts right answers, and rejects wrong ones, in the words of small models.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from math import expm1
from pathlib import Path
from random import Random

import pytest
from commands import here, refusal
from scipy.stats import chisquare

from cluster.assessment.prompt_splits import drawn, sizes_at
from eexit.plan.prompt_kinds import generators, multi_step
from eexit.plan.prompt_kinds.generators import KINDS, MOST, PromptKind, draw_prompts, one, some, whole
from eexit.plan.prompt_kinds.multi_step import IN_STEPS
from eexit.plan.prompts import read_prompts
from eexit.plan.splits import sort_of
from eexit.plan.sweep_config import Prompt
from eexit.quality.grading import grade
from jobs.files.make_prompts import main

EVERY = (*KINDS, *IN_STEPS)
EACH = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name)
TELLING = tomllib.loads(Path(__file__).with_name("telling.toml").read_text("utf-8"))


def test_a_seeds_prompts_are_the_same_for_ever_and_others_draw_others() -> None:
    prompts = draw_prompts(500, 0)
    texts = [(p.id, p.prompt, p.system, p.answer, p.answer_pattern, p.group) for p in prompts]
    assert sha256(repr(texts).encode()).hexdigest()[:16] == "a8699a1223c2a5da"
    assert draw_prompts(70, 0) == prompts[:70]
    for seed in (-5, 6, 2**63 - 1, -(2**63)):
        other = {prompt.prompt for prompt in draw_prompts(300, seed)}
        assert len(other & {prompt.prompt for prompt in prompts[:300]}) <= 3, seed


def unit_of(prompt: Prompt) -> str:
    return prompt.group or prompt.prompt


def test_no_two_share_a_fact_and_kinds_have_shares_in_proportion_to_their_turns() -> None:
    prompts, turns = draw_prompts(5000, 1), sum(kind.turns for kind in KINDS)
    assert len({unit_of(prompt) for prompt in prompts}) == 5000
    assert [prompt.id.rsplit("-", 1)[1] for prompt in prompts] == [str(at) for at in range(1, 5001)]
    n, large = Counter(sort_of(prompt.id) for prompt in prompts), [kind for kind in KINDS if kind.space > 10_000]
    assert {*n} == {kind.name for kind in KINDS}
    assert chisquare([n[kind.name] for kind in large]).pvalue > 0.001
    assert sum(kind.turns for kind in large) / turns > 0.95, "facts of nearly all prompts can't be used up"


def test_parts_of_different_draws_share_no_fact() -> None:
    parts = [part for seed in range(4) for part in drawn(sizes_at(0.02), 151, seed).of.items()]
    facts = [(unit_of(prompt), part) for part, prompts in parts for prompt in prompts]
    assert len({*facts}) == len(dict(facts)) < len(facts) - 30, "facts that prompts share"


@EACH
def test_a_kind_repeats_itself_no_more_often_than_its_space_says(kind: PromptKind) -> None:
    """If no prompt is likelier than 1 / space, m draws have m (m − 1) / 2 / space equal pairs at most, on average."""
    rng, m = Random(3), 1000
    n = Counter(unit_of(kind.draw(rng)) for _ in range(m))
    pairs, equal = m * (m - 1) // 2, sum(count * (count - 1) // 2 for count in n.values())
    assert equal <= pairs / kind.space * 1.3 + 10


@pytest.mark.parametrize("kinds", [KINDS, IN_STEPS])
def test_of_the_most_prompts_fewer_than_one_draw_in_a_hundred_is_left_out(kinds: Sequence[PromptKind]) -> None:
    turns = sum(kind.turns for kind in kinds)
    n_draws = [(MOST * kind.turns / turns, kind.space) for kind in kinds]
    assert sum(n + space * expm1(-n / space) for n, space in n_draws) < MOST / 100


def test_draws_are_uniform_and_some_are_different() -> None:
    rng = Random(4)
    numbers = Counter(whole(rng, 3, 8) for _ in range(6000))
    orders = Counter("".join(some(rng, "abcd", 3)) for _ in range(12_000))
    assert ({*numbers}, len(orders), {one(rng, "xyz") for _ in range(100)}) == ({*range(3, 9)}, 24, {*"xyz"})
    assert min(chisquare(list(counts.values())).pvalue for counts in (numbers, orders)) > 0.001


def test_the_command_writes_a_file_of_prompts_and_replaces_none(tmp_path: Path) -> None:
    out, stepped = tmp_path / "drawn.jsonl", tmp_path / "steps.jsonl"
    done = here(main, "--n", "20", "--seed", "5", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert list(read_prompts(out)) == draw_prompts(20, seed=5)
    assert here(main, "--n", "9", "--steps", "sum", "counted", "--out", stepped).returncode == 0
    kinds = [kind for kind in IN_STEPS if kind.name in ("sum", "counted")]
    assert list(read_prompts(stepped)) == draw_prompts(9, 0, kinds)
    written, other = out.read_bytes(), tmp_path / "b.jsonl"
    refused: list[tuple[list[str | Path], str]] = [
        (["--steps", "sums", "--out", other], "--steps sums: no such kind needs steps: did you mean sum?"),
        (["--n", "10", "--out", out], "is there already"),
        (["--n", "9999999", "--out", other], "n must be at most 15,000"),
        (["--n", "0", "--out", other], "must be a whole number above 0, got 0"),
        (["--out", tmp_path / "b.txt"], "must end in .jsonl"),
        (["--out", tmp_path / "none" / "b.jsonl"], "No such file or directory"),
    ]
    for arguments, message in refused:
        assert message in refusal(main, *arguments)
    assert out.read_bytes() == written
    assert sorted(tmp_path.iterdir()) == [out, stepped]


def test_every_kind_is_tested_and_docstrings_list_them_with_their_spaces() -> None:
    assert list(TELLING) == [kind.name for kind in EVERY]
    tables = f"{generators.__doc__}\n{multi_step.__doc__}"
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| [^|]+ \| [^|]+ \|$", tables, re.MULTILINE)
    assert rows == [(kind.name, f"{kind.space:.1e}") for kind in EVERY]


@EACH
def test_texts_of_a_kind_are_marked_right_and_wrong_and_so_are_the_answer_and_no_answer(kind: PromptKind) -> None:
    prompt, telling = kind.draw(Random(1)), TELLING[kind.name]
    assert telling["asked"] in prompt.prompt
    assert min(len(telling["right"]), len(telling["wrong"])) >= 3
    expected = dict.fromkeys(telling["right"], True) | dict.fromkeys(telling["wrong"], False)
    assert {text: grade(prompt, text).correct for text in expected} == expected
    rng = Random(2)
    for prompt in (kind.draw(rng) for _ in range(30)):
        right = [] if prompt.answer is None else [prompt.answer, f"The answer is {prompt.answer}."]
        wrong = ["", "I do not know.", "The text is long and it goes on and on and on."]
        expected = dict.fromkeys(right, True) | dict.fromkeys(wrong, False)
        assert {text: grade(prompt, text).correct for text in expected} == expected, prompt
