"""The tables at the end of a sweep, beside the numbers in the report and in `--json`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from chart_fields import known
from driving import land_rows
from rich.console import Console
from scripted import rows_of, sweep_of

from eexit.output.result_table import SOFT_HYPHEN, ResultTable
from eexit.plan.configuration import same_for_every_seed
from eexit.plan.runs import Run, configurations, count_different_runs, plan_runs
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.configuration_means import figures
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import commit, publish_shard, shard_name
from eexit.results.store.folder import Store, open_store
from eexit.results.tables import OF_PARTS
from eexit.sweeps.summary.summary_table import closing_table, kinds_table
from reports.page.run_info import facts
from reports.read.sweep import read_sweep
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings

PROMPTS = tuple(Prompt(f"{'sum' if n < 7 else 'odd'}-{n}", f"{n}?", answer="7") for n in range(8))
CONFIG = SweepConfig(
    model="a-model", prompts=PROMPTS, modes=("normal", "skip"), rules={"kl": (1,), "confidence": (0.9,)},
    draft=("5:2",), seeds=(0, 1), screen="8:8",
)  # fmt: skip
PLANNED, ASKED = configurations(CONFIG), [asdict(prompt) for prompt in PROMPTS]
SAME = same_for_every_seed(PLANNED, CONFIG.temperature)
DRAFTS = {"drafted": 8, "accepted": 6, "passes": 4, "tokens_per_pass": 2.75, "expected_time": 0.5}


def columns(run: Run) -> dict[str, Any]:
    """Six of eight answers are right at full depth, four after exits; the limit ends the texts of two prompts."""
    n, key, early = int(run.prompt.id[-1]), run.configuration.key, run.configuration.mode == "skip"
    screen = {"screen_reads": 2, "screen_misses": int(n == 0)} if "confidence" in key else {}
    return {
        "mean_depth": 0.75 if early else 1.0, "longest_loop": 1, "exit_rate": 0.5, "disagreement": early / 4,
        "perplexity": 4.0 if early else 2.0, "tokens_until_difference": 1 if early else 3,
        "correct": n < (4 if early else 6), "finish_reason": "length" if n > 5 else "eos",
        "thinking_closed": True, "n_thinking_tokens": 2, "n_answer_tokens": 1, "macs_full": 100.0,
        "macs_executed": None if "kl" in key else 80.0 if early else 100.0, "macs_required": 60.0 if early else 100.0,
        **(DRAFTS if key.startswith("draft") else screen),
    }  # fmt: skip


def cells_of(table: ResultTable) -> dict[str, list[str]]:
    headers = [str(column.header).replace(SOFT_HYPHEN, "").replace("\n", " ") for column in table.columns]
    return dict(zip(headers, ([*map(str, column.cells)] for column in table.columns), strict=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished sweep of which the first run failed: normal's, with the first seed alone."""
    store = open_store(land_rows(tmp_path_factory.mktemp("all") / "out", CONFIG, columns, leave_out=1))
    failed = list(plan_runs(CONFIG))[:1]
    commit(store, failed, error_results(failed, CONFIG, "no"))
    return store


def test_each_column_of_the_closing_table_and_the_same_numbers_in_the_report_and_as_json(store: Store) -> None:
    table = closing_table(store, PLANNED, SAME, ASKED, "float32")
    cells = {name: " ".join(column) for name, column in cells_of(table).items()}
    assert cells.pop("95 % interval")
    assert cells == {
        "configuration": "normal skip/kl/1 skip/confidence/0.9 draft/5:2", "runs": "16 16 16 16",
        "different": "8 16 8 8", "failed": "1 0 0 0", "layers skipped": "0.0% 25.0% 25.0% 0.0%",
        "disagreement": "0.0% 25.0% 25.0% 0.0%", "one loop": "33.3% 33.3% 33.3% 33.3%", "perplexity": "2 4 4 2",
        "same as normal until": "3.0 1.0 1.0 3.0", "correct": "75.0% 50.0% 50.0% 75.0%", "cut": "25% 25% 25% 25%",
        "cost per right": "– – 1.20 1.00", "if free to decide": "– 0.90 0.90 1.00",
        "tokens per right": "4.0 6.0 6.0 4.0", "accepted": "– – – 75.0%", "expected time": "– – – 0.50",
    }  # fmt: skip
    for words in (
        "cut texts of normal (25.0%)", "Computed in float32.", "all seeds have the same run", "Correct:",
        "Cost per right:", "Accepted:", "of the 8 early exits decided on it, 12.5% lacked",
    ):  # fmt: skip
        assert words in str(table.caption)
    rows = figures(store, PLANNED, SAME, ASKED)
    counts = [(row["runs"], row["different_runs"], row["errors"]) for row in rows]
    assert counts == [(16, 8, 1), (16, 16, 0), (16, 8, 0), (16, 8, 0)]
    assert sum(different for _, different, _ in counts) == count_different_runs(CONFIG)
    assert rows[2]["per_right_answer"]["macs_executed"]["beside_normal"]["mean"] == pytest.approx(1.2)
    sweep = read_sweep(store.root)
    saves = known(savings(sweep, per_configuration(sweep))).rows.set_index("configuration")
    assert saves.loc["skip/confidence/0.9", "run_per_right"] == pytest.approx(-0.2)
    assert dict(facts(sweep))["Screen"] == "8:8, without the likeliest token at 12.5% of 8 exits"


def test_what_no_run_has_is_no_column_also_of_a_version_without_parts(store: Store, tmp_path: Path) -> None:
    whole = cells_of(closing_table(store, PLANNED, SAME, ASKED))
    config = CONFIG.model_copy(update={"draft": ()})
    plain = cells_of(closing_table(open_store(land_rows(tmp_path / "plain", config)), PLANNED[:3]))
    assert [*plain] == [*whole][:2] + [*whole][4:9]
    older, runs = open_store(tmp_path / "older"), list(plan_runs(CONFIG))
    some, rest = ([run for run in runs if (run.prompt.id < "sum-4") == is_old] for is_old in (True, False))
    made = rows_of(some, CONFIG, columns)
    tables = made.generations.drop_columns([*OF_PARTS]), made.tokens.drop_columns(["part"])
    publish_shard(older.publish, shard_name(some), *tables, attempt=1)
    of_right = ("cost per right", "if free to decide", "tokens per right", "95 % interval")
    whole.pop("failed")
    assert [*cells_of(closing_table(older, PLANNED, SAME, ASKED))] == [name for name in whole if name not in of_right]
    assert not {"per_right_answer", *OF_PARTS} & {*(row := figures(older, PLANNED, SAME, ASKED)[0]), *row["estimates"]}
    commit(older, rest, rows_of(rest, CONFIG, columns))
    assert [*cells_of(closing_table(older, PLANNED, SAME, ASKED))] == [*whole], "merged"


def test_the_closing_table_breaks_no_word_where_there_is_room(tmp_path: Path) -> None:
    config = sweep_of("a-model", "one", "two")
    measured = {"disagreement": 0.1, "perplexity": 12.345, "longest_loop": 2, "tokens_until_difference": 33}
    store = open_store(land_rows(tmp_path / "out", config, lambda run: measured))
    for width, words in ((80, {"disagreement"}), (60, {"agree-", "plex-"})):
        console = Console(width=width, record=True)
        console.print(closing_table(store, configurations(config)))
        headings, _, rest = (said := console.export_text()).partition("─")
        assert words <= {*headings.split()}
        assert max(map(len, said.splitlines())) <= width
        if width == 80:
            assert "-" not in headings
            assert 1 <= sum(line[:1].strip() != "" for line in rest.splitlines()[1:]) <= 3, "a short legend"


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

    def counts(run: Run) -> dict[str, int | None]:
        contradicted, n = exits[run.configuration.key][int(run.prompt.id)]
        return {"contradicted_on_normal": contradicted, "exits_on_normal": n}

    store, planned = open_store(land_rows(tmp_path / "out", config, counts)), configurations(config)
    assert (
        "contradicts most early exits of skip/confidence/0.3 (90.0% of 10 exits), skip/confidence/0.5 (75.0% of 4 "
        "exits), skip/margin/0.5 (56.0% of 25 exits), and 1 more.\n"
    ) in str(closing_table(store, planned).caption)
    others = [each for each in planned if each.key in ("normal", "skip/kl/1", "skip/fixed/5", "skip/confidence/0.9")]
    assert "Careful" not in str(closing_table(store, others).caption)


def test_a_second_table_has_what_a_setting_does_to_each_kind_of_prompt(store: Store) -> None:
    table = kinds_table(store, PLANNED, ASKED)
    assert table
    assert cells_of(table) == {
        "configuration": [each.key for each in PLANNED], "odd": ["0.0%"] * 4,
        "sum": ["85.7%", "57.1%", "57.1%", "85.7%"],
    }  # fmt: skip
    assert kinds_table(store, PLANNED, ASKED[:7]) is None, "of one kind"
