"""Word problems: their answers, counted out from the text, and the file that the command writes."""

import re
from collections import Counter
from pathlib import Path

import pytest
from commands import here
from full_disk import left, on_a_full_disk

from eexit.messages.errors import UsageError
from eexit.plan.prompts import read_prompts
from eexit.plan.word_problems import PROBLEMS, word_problems
from eexit.quality.answers import mark
from jobs.word_problems import main


def counted(text: str) -> int:
    """The answer, found from the text by counting things one by one."""
    first, *others = map(int, re.findall(r"\d+", text))
    things = [*range(first)]
    if "more." in text:
        return len([*things, *range(others[0])])
    if "gave" in text:
        return len(things[others[0] :])
    if "in a box" in text or "train" in text:
        return len([thing for _ in range(others[0]) for thing in things])
    if "shared" in text:
        assert len({len(things[child :: others[0]]) for child in range(others[0])}) == 1, "not equally"
        return len(things[:: others[0]])
    if "pages" in text:
        return len(things[others[0] :][others[1] :])
    if "costs" in text:
        paid = [euro for _ in range(others[0]) for euro in things]
        assert len(paid) < others[1]
        return len([*range(others[1])][len(paid) :])
    if "cousin" in text:
        return len([*things, *range(others[0]), *range(others[1])])
    assert "half" in text
    return len([*things[::2], *range(others[0])])


def test_answers_are_those_that_counting_gives() -> None:
    problems = word_problems(900, seed=3)
    assert [problem.answer for problem in problems] == [str(counted(problem.prompt)) for problem in problems]
    assert all(counted(problem.prompt) > 0 for problem in problems)


def test_repeating_a_problem_or_one_of_its_numbers_is_wrong() -> None:
    problems = word_problems(sum(1 for problem in PROBLEMS for _ in problem.prompts()), seed=0)
    for problem in problems:
        assert problem.answer not in re.findall(r"\d+", problem.prompt)
    for problem in problems[:900]:
        assert not mark(problem, problem.prompt).correct
        assert not mark(problem, problem.prompt.rsplit(". ", 1)[0]).correct
        assert mark(problem, f"{problem.prompt}\nIt is {problem.answer}.").correct


def test_problems_are_the_seeds_and_no_two_are_alike_and_kinds_take_turns() -> None:
    some = word_problems(300, seed=0)
    assert some == word_problems(300, seed=0)
    assert some[:9] == word_problems(9, seed=0)
    assert some != word_problems(300, seed=1)
    assert len({problem.prompt for problem in some}) == len({problem.id for problem in some}) == 300
    endings = Counter(problem.prompt[-12:] for problem in some)
    assert len(endings) >= len(PROBLEMS)


def test_all_there_are_can_be_had_but_no_more() -> None:
    most = sum(1 for problem in PROBLEMS for _ in problem.prompts())
    assert len({problem.prompt for problem in word_problems(most, seed=0)}) == most
    with pytest.raises(UsageError, match=f"there are {most:,} word problems, not {most + 1:,}: ask for fewer"):
        word_problems(most + 1, seed=0)


def test_the_command_writes_a_file_of_prompts_and_replaces_none(tmp_path: Path) -> None:
    out = tmp_path / "problems.jsonl"
    done = here(main, "--n", "20", "--seed", "5", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert list(read_prompts(out)) == word_problems(20, seed=5)
    written = out.read_bytes()
    refused: list[tuple[list[str | Path], str]] = [
        (["--n", "10", "--out", out], f"--out {out} is there already: choose another name"),
        (["--n", "9999999", "--out", tmp_path / "b.jsonl"], "word problems, not 9,999,999: ask for fewer"),
        (["--n", "0", "--out", tmp_path / "b.jsonl"], "must be a whole number above 0, got 0"),
        (["--out", tmp_path / "b.txt"], "must end in .jsonl"),
        (["--out", tmp_path / "none" / "b.jsonl"], "No such file or directory"),
    ]
    for arguments, message in refused:
        done = here(main, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert out.read_bytes() == written
    assert list(tmp_path.iterdir()) == [out]


def test_on_a_full_disk_no_file_is_left_and_the_same_command_then_goes(tmp_path: Path) -> None:
    out = tmp_path / "problems.jsonl"
    done = on_a_full_disk(4096, "jobs/word_problems.py", "--out", out)
    assert (done.returncode, done.stderr.splitlines()) == (
        2, [f"error: --out {out} can't be written ([Errno 27] File too large: '{out}')"]
    )  # fmt: skip
    assert left(tmp_path) == []
    out.touch()  # as older versions left it
    assert here(main, "--out", out).returncode == 0
    assert list(read_prompts(out)) == word_problems(200, seed=0)
