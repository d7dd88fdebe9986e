"""Tables in 80 columns: keys are shortened, or broken at / if at all, and numbers never."""

import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from eexit.output.result_table import ResultTable
from eexit.plan.configuration import short_name
from eexit.quality.rubric import ASPECTS
from eexit.studies.judging import judgements_table
from eexit.studies.replay.study import replays_table
from eexit.studies.timing.speedups import timings_table

KEYS = ("normal", "unfrozen/kl/0.5", "frozen_residual/kl/0.5", "frozen_residual/predicted_kl/0.125")


def printed(table: Table, columns: int = 80) -> list[str]:
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= columns
    return lines


def judged() -> Table:
    about = {"status": "ok", "seed": 0}
    rows = [
        {"configuration": key, "prompt_id": str(prompt), **about, **dict.fromkeys(ASPECTS, 4 + prompt % 2)}
        for key in KEYS for prompt in range(1234)
    ]  # fmt: skip
    return judgements_table(rows, KEYS, {})


def replayed() -> Table:
    share = {"expected_disagreement": 0.123, "expected_disagreement_low": 0.1, "expected_disagreement_high": 0.15}
    depth = {"mean_depth": 0.877, "mean_depth_low": 0.8, "mean_depth_high": 0.9, "expected_kl": 0.01234}
    costs = {"macs_required": 88, "macs_full": 100, "macs_executed": 93}
    about = {"mode": "m", "rule": "kl", "text_of": "normal", "drawn": True, "prompts": 9, "texts": 9}
    return replays_table([{"configuration": key, **share, **depth, **costs, **about} for key in KEYS])


TABLES = {
    "judgements": (judged(), ["4.50", "4.47–", "4.53", "1,234"]),
    "replays": (replayed(), ["12.3%", "0.01234", "12.0%"]),
}


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize(("table", "numbers"), TABLES.values(), ids=TABLES)
def test_in_80_columns_keys_are_shortened_and_numbers_never_broken(
    table: Table, numbers: list[str], columns: int
) -> None:
    lines = printed(table, columns)
    text = re.sub(r"\s+", " ", " ".join(lines))
    has_room = KEYS[1] in text
    assert all(f" {key if has_room else short_name(key)}" in text for key in KEYS)
    assert has_room or text.replace("*", "").endswith(f" F·pkl .125: {KEYS[-1]}. ")
    for number in numbers:
        assert sum(number in line for line in lines) >= len(KEYS) - 1, number


def test_a_table_that_has_room_is_not_broken_at_all() -> None:
    text = "\n".join(printed(judged(), 110))
    assert all(f" {key} " in text for key in KEYS)
    assert "4.47–4.53" in text


def test_print_and_a_python_prompt_show_the_table() -> None:
    lines = printed(judged(), 120)
    assert [line.rstrip() for line in str(judged()).splitlines()] == [line.rstrip() for line in lines]
    assert repr(judged()) == str(judged())


def test_a_key_is_broken_elsewhere_only_where_it_does_not_fit_otherwise() -> None:
    table = ResultTable()
    table.add("key", "setting")
    table.add("number", "n")
    table.add_row("frozen_residual/kl/0.5", "1,234,567")
    assert [line.split() for line in printed(table, 28)[3:-1]] == [["frozen_residual/", "1,234,567"], ["kl/0.5"]]
    assert [line.split() for line in printed(table, 22)[3:-1]] == [["frozen_", "1,234,567"], ["residual/"], ["kl/0.5"]]


def test_times_of_many_configurations_fit() -> None:
    rows: list[dict[str, Any]] = []
    for key in KEYS:
        for at in range(6):
            costs = {"macs_full": 100.0, "macs_required": 80.0, "macs_executed": 100.004}
            timed = {"round": at, "batch": 8, "seconds": 1 + at / 10, "tokens": 100000, "prompt_ids": ["rome", "sum"]}
            rows.append({"configuration": key, **timed, **costs})
    text = re.sub(r"\s+", " ", " ".join(printed(timings_table(rows))))
    assert "Prompts: rome, sum." in text
    assert all(short_name(key) in text for key in KEYS)
    assert "-0.0%" not in text
    assert text.count("20.0% 0.0%") == len(KEYS)


def test_what_moves_the_cursor_or_colours_is_shown_and_not_done() -> None:
    table = ResultTable("Computed in \x1b[31mfloat32.")
    table.add("key", "configuration")
    table.add_row("a\x1b]0;title\x07b")
    said = "\n".join(printed(table))
    assert "a\\x1b]0;title\\x07b" in said
    assert "\\x1b[31mfloat32." in said
    assert not {"\x1b", "\x07"} & {*said}
