"""The table at the end of a sweep: what its cells and caption are, beside the rows, the report and `--json`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from byte_model import save_byte_model
from landed_sweep import land_all, land_rows
from rich.console import Console
from scripted import rows_of, sweep_of

from cluster.console.flags_from_config import load_job
from eexit.output.result_table import SOFT_HYPHEN
from eexit.plan.configuration import short_name
from eexit.plan.runs import Run, configurations, plan_runs
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.committed import read_columns
from eexit.results.configuration_means import figures
from eexit.results.layout import MANIFEST
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import (
    commit,
    publish_shard,
    shard_name,
)
from eexit.results.store.folder import open_store
from eexit.results.tables import OF_PARTS
from eexit.sweeps.summary.summary_table import closing_table
from jobs.sweep import DEMO, of_chains
from reports.page.run_info import facts
from reports.read.sweep import read_sweep
from reports.sections.drafts import drafted
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings


def test_the_closing_table_counts_errors_where_there_are_any(
    tmp_path: Path,
) -> None:
    config = sweep_of("a-model", "one", "two")
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    commit(store, runs[1:], rows_of(runs[1:], config))
    planned = configurations(config)
    assert "failed" not in [column.header for column in closing_table(store, planned).columns]
    commit(store, runs[:1], error_results(runs[:1], config, "no"))
    counted = {str(column.header): list(column.cells) for column in closing_table(store, planned).columns}
    assert counted["failed"] == ["1", *["0"] * (len(planned) - 1)]
    assert counted["runs"] == ["2"] * len(planned)


def test_the_closing_table_breaks_no_word_where_there_is_room_and_has_a_short_legend(tmp_path: Path) -> None:
    config = load_job([], DEMO)[0].config
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    measured = {"disagreement": 0.1, "perplexity": 12.345, "longest_loop": 2, "tokens_until_difference": 33}
    commit(store, runs, rows_of(runs, config, lambda run: measured))
    table = closing_table(store, configurations(config))
    said = {}
    for width in (100, 80, 60):
        console = Console(width=width, record=True)
        console.print(table)
        said[width] = console.export_text()
        assert max(map(len, said[width].splitlines())) <= width
    for width in (100, 80):
        headings, _, rest = said[width].partition("─")
        assert "-" not in headings
        assert {"disagreement", "perplexity"} <= {*headings.split()}
        assert 1 <= sum(line[:1].strip() != "" for line in rest.splitlines()[1:]) <= 3
    assert {"agree-", "plex-"} <= {*said[60].split()}, "broken where there is none"


def test_the_closing_table_names_rules_that_the_final_layer_mostly_contradicts(tmp_path: Path) -> None:
    """It names no oracle, no rule without a score, and no rule that is right at half of its exits over all prompts."""
    rules = {"kl": (1,), "confidence": (0.3, 0.5, 0.7, 0.9), "margin": (0.5,), "fixed": (5,)}
    config = sweep_of("a-model", "one", "two", modes=("normal", "skip"), rules=rules)
    exits: dict[str, tuple[tuple[int | None, int | None], ...]] = {  # per prompt: contradicted exits, all exits
        "normal": ((0, 0), (0, 0)), "skip/kl/1": ((9, 10), (9, 10)), "skip/fixed/5": ((9, 10), (9, 10)),
        "skip/confidence/0.3": ((1, 1), (8, 9)), "skip/confidence/0.5": ((1, 1), (2, 3)),
        "skip/confidence/0.7": ((1, 9), (8, 8)), "skip/confidence/0.9": ((1, 1), (0, 1)),
        "skip/margin/0.5": ((None, None), (14, 25)),
    }  # fmt: skip
    names = ("contradicted_on_normal", "exits_on_normal")
    land_rows(
        tmp_path / "out",
        config,
        lambda run: dict(zip(names, exits[run.configuration.key][int(run.prompt.id)], strict=True)),
    )
    store, planned = open_store(tmp_path / "out"), configurations(config)
    named = (
        "skip/confidence/0.3 (90.0% of 10 exits), skip/confidence/0.5 (75.0% of 4 exits), "
        "skip/margin/0.5 (56.0% of 25 exits), and 1 more"
    )
    said = f"Careful: while the text is normal's, the final layer contradicts most early exits of {named}.\n"
    assert str(closing_table(store, planned).caption).startswith(said)
    others = [each for each in planned if each.key in ("normal", "skip/kl/1", "skip/fixed/5", "skip/confidence/0.9")]
    assert "Careful" not in str(closing_table(store, others).caption)


def test_where_a_screen_was_wrong_is_told_at_the_end_and_in_the_report(tmp_path: Path) -> None:
    """Of the eight tokens that pass the screen, one has a probability of at least 1/8, so every token exits by it."""
    save_byte_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=tuple(Prompt(id=text, prompt=text) for text in ("one", "two")),
        modes=("normal", "unfrozen"), rules={"confidence": (0.1,)}, screen="8:8",
        exit_every=2, max_new_tokens=30, dtype="float32",
    )  # fmt: skip
    store = open_store(land_all(tmp_path / "out", config))
    runs = read_columns(store, ["configuration", "n_tokens", "screen_misses"]).to_pandas().set_index("configuration")
    looking = runs.loc["unfrozen/confidence/0.1"]
    n_left, n_missed = (looking.n_tokens - 1).sum(), looking.screen_misses.sum()
    assert 0 < n_missed < n_left
    assert runs.loc["normal"].screen_misses.sum() == 0
    said = f"of the {n_left} early exits decided on it, {n_missed / n_left:.1%} lacked"
    assert said in str(closing_table(store, configurations(config)).caption)
    about = dict(facts(read_sweep(store.root)))["Screen"]
    assert about == f"8:8, without the likeliest token at {n_missed / n_left:.1%} of {n_left} exits"


def test_what_a_right_answer_takes_is_told_at_the_end_in_the_report_and_as_json(tmp_path: Path) -> None:
    """Half of the runs are of a version without parts: its text is read, and merged with the rest."""
    prompts = [Prompt(id=str(n), prompt=f"{n}?", answer="7") for n in range(12)]
    config = SweepConfig(
        prompts=tuple(prompts), model="a-model", modes=("normal", "skip"), rules={"kl": (1,), "fixed": (5,)}
    )

    def thinks(run: Run) -> dict[str, Any]:
        n, early = int(run.prompt.id), run.configuration.mode == "skip"
        full = 100.0 + 10 * n
        needed = full - 30 * early
        is_oracle = "kl" in run.configuration.key
        return {
            "correct": n % 4 > early, "thinking_closed": n != 5, "n_thinking_tokens": 2, "n_answer_tokens": 1,
            "macs_full": full, "macs_required": needed, "macs_executed": None if is_oracle else needed,
        }  # fmt: skip

    store = open_store(land_rows(tmp_path / "out", config, thinks))
    planned, asked = configurations(config), [asdict(prompt) for prompt in prompts]
    table = closing_table(store, planned, prompts=asked)
    cells = {str(column.header): [*column.cells] for column in table.columns}
    runs = pd.read_parquet(tmp_path / "out" / "generations").astype({"correct": float})
    sums = runs.groupby("configuration", sort=False)[["macs_executed", "macs_required", "n_tokens", "correct"]].sum()
    took = sums.div(sums["correct"], axis=0)
    times = took / took.loc["normal"]
    assert cells["tokens\nper right"] == [f"{each:.1f}" for each in took["n_tokens"]]
    assert cells["cost per\nright"] == ["–", "–", f"{times['macs_executed']['skip/fixed/5']:.2f}"], (
        "oracles ran every layer"
    )
    assert cells["if free to\ndecide"] == ["–", *(f"{each:.2f}" for each in times["macs_required"][1:])]
    assert "Cost per right: multiply-adds of all runs over right answers" in str(table.caption)
    assert of_chains(store, config).startswith("3 of 36 chains of thought never closed, and have no answer: raise")
    by_key = {row["configuration"]: row for row in figures(store, planned, prompts=asked)}
    of_run = by_key["skip/fixed/5"]["per_right_answer"]["macs_executed"]["beside_normal"]
    assert of_run["mean"] == pytest.approx(times["macs_executed"]["skip/fixed/5"])
    sweep = read_sweep(store.root)
    saves = savings(sweep, per_configuration(sweep))
    assert saves
    saved = saves.rows.set_index("configuration").loc["skip/fixed/5"]
    ends = [1 - of_run[end] for end in ("mean", "high", "low")]
    assert [saved[f"run_per_right{end}"] for end in ("", "_low", "_high")] == pytest.approx(ends)
    assert {"run_per_right", "needed_per_right"} <= {axis.column for axis in saves.costs}

    older = open_store(tmp_path / "older")
    some = [run for run in plan_runs(config) if run.prompt.id < "2"]
    results = rows_of(some, config, thinks)
    publish_shard(
        older.publish,
        shard_name(some),
        results.generations.drop_columns([*OF_PARTS]),
        results.tokens.drop_columns(["part"]),
        attempt=1,
    )
    assert len(closing_table(older, planned, prompts=asked).columns) == len(table.columns) - 6
    assert "per_right_answer" not in figures(older, planned, prompts=asked)[0]
    assert not {*OF_PARTS} & {*figures(older, planned)[0]["estimates"]}
    rest = [run for run in plan_runs(config) if run not in some]
    commit(older, rest, rows_of(rest, config, thinks))
    older.publish(MANIFEST, store.read(MANIFEST) or b"")
    assert of_chains(older, config).startswith("3 of ")


def test_marks_that_no_text_has_are_told_in_a_line(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    config = sweep_of("a-model", "one", thinking=("<t>", "</t>"))
    runs = list(plan_runs(config))
    commit(store, runs, rows_of(runs, config))
    assert of_chains(store, config) == (
        "no text has <t> or </t>, so that each text is all answer: give --thinking the marks that the model writes"
    )
    assert of_chains(store, sweep_of("a-model", "one")) == ""


def test_the_closing_table_says_of_drafts_what_the_report_does(tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=tuple(Prompt(id=text, prompt=text) for text in ("one", "two")),
        draft=("2:2", "4:3"), exit_every=2, max_new_tokens=30, dtype="float32",
    )  # fmt: skip
    store = open_store(land_all(tmp_path / "out", config))
    table = closing_table(store, configurations(config))
    *_, accepted, expected = (list(column.cells) for column in table.columns)
    found = drafted(read_sweep(store.root))
    assert found is not None
    rows = found.drafts.set_index("configuration")
    assert accepted == ["–", *(f"{rows.acceptance[key]:.1%}" for key in ("draft/2:2", "draft/4:3"))]
    assert expected == ["–", *(f"{rows.expected[key]:.2f}" for key in ("draft/2:2", "draft/4:3"))]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    for key, share, times in zip(("draft/2:2", "draft/4:3"), accepted[1:], expected[1:], strict=True):
        [line] = [line.split() for line in lines if line.startswith(f" {short_name(key)} ")]
        assert line[-2:] == [share, times]
        assert line[2] == "0.0%", "no layer is skipped, and zero has no sign"
    assert max(map(len, lines)) <= 80
    plain = closing_table(store, configurations(config)[:1])
    assert len(plain.columns) == len(table.columns) - 2


def test_texts_that_the_limit_ended_are_counted_beside_right_answers_and_warned_of(tmp_path: Path) -> None:
    """Of ten sums, 7 end at the limit at full depth, one of them with its answer; of the setting's, 1 does."""
    prompts = [Prompt(f"{n}", f"sum {n}", answer="4") for n in range(10)]
    prompts.append(Prompt("open", "a story"))
    config = sweep_of("a-model", "sum", rules={"confidence": (0.9,)}, modes=["normal", "skip"]).model_copy(
        update={"prompts": tuple(prompts)}
    )

    def columns(run: Run) -> dict[str, Any]:
        is_open, n_cut = run.prompt.id == "open", 7 if run.configuration.key == "normal" else 1
        is_cut = is_open or int(run.prompt.id) < n_cut
        right = None if is_open else not is_cut or run.prompt.id == "0"
        return {"finish_reason": "length" if is_cut else "eos", "correct": right}

    store = open_store(land_rows(tmp_path / "out", config, columns))
    table, rows = closing_table(store, configurations(config)), figures(store, configurations(config))
    assert str(table.caption).startswith(
        "Careful: max_new_tokens cut texts of normal (70.0%); an answer that had not come by then counts as wrong.\n"
    )
    columns_of = {str(column.header).replace(SOFT_HYPHEN, ""): list(column.cells) for column in table.columns}
    assert (columns_of["correct"], columns_of["cut"]) == (["40.0%", "100.0%"], ["70%", "10%"])
    assert [row["estimates"]["cut"]["mean"] for row in rows] == pytest.approx([0.7, 0.1])
    open_only = tuple(prompts[-1:])
    unmarked = config.model_copy(update={"prompts": open_only})
    store = open_store(land_rows(tmp_path / "open", unmarked, columns))
    table = closing_table(store, configurations(unmarked))
    assert "Careful" not in str(table.caption), "no answer that could be missing"
    assert [row["estimates"]["cut"]["mean"] for row in figures(store, configurations(unmarked))] == [1.0, 1.0]
