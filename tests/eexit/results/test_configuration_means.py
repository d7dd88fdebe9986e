"""Each measure has one number: over sampling units, wherever it is shown (`eexit.results.configuration_means`)."""

from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from driving import land_rows
from synthetic_sweeps import blank

import eexit
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.quality.rubric import ASPECTS
from eexit.results.committed import read_columns
from eexit.results.finished_sweep import read_finished
from eexit.results.store.commit import RunCounts
from eexit.results.store.folder import open_store
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.judging import judgements_table, plan_judging
from eexit.studies.packaging.package_setting import COLUMNS as OF_PACKAGE
from eexit.studies.selection.selection_args import SelectionArgs
from eexit.studies.selection.selection_data import SelectionData
from eexit.sweeps.summary.sweep_summary import SweepSummary
from reports.read.sweep import read_sweep
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings

KEY = "skip/confidence/0.5"
UNITS = ([0, 1, 2, 3, 4, 5], [6], [7])  # of eight prompts, six name a group
PROMPTS = tuple(Prompt(f"{n}", f"{n}?", answer="7", group="one" if n < 6 else None) for n in range(8))
GRID: dict[str, Any] = {"modes": ("normal", "skip"), "rules": {"confidence": (0.5,)}, "seeds": (0, 1)}
CONFIG = SweepConfig(model="a-model", prompts=PROMPTS, temperature=1, **GRID)
MEASURED: dict[str, list[float]] = {  # the group disagrees most
    "disagreement": [0.875, 0.75, 0.875, 0.75, 0.875, 0.75, 0.5, 0.25],
    "lcs_share": [0.125, 0.25, 0.125, 0.125, 0.25, 0.125, 0.5, 0.75],
    "mean_depth": [0.25, 0.5, 0.25, 0.5, 0.25, 0.5, 0.75, 0.875],
    "perplexity": [2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 16.0, 64.0], "tokens_until_difference": [1, 2, 3, 4, 5, 6, 20, 30],
}  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return eight prompts' runs with two seeds, which differ for every second prompt."""

    def columns(run: Run) -> dict[str, Any]:
        n, is_early = int(run.prompt.id), run.configuration.key != "normal"
        measured = {name: values[n] + run.seed * 2.0**-4 * (n % 2) for name, values in MEASURED.items()}
        return (measured if is_early else {"mean_depth": measured["mean_depth"]}) | {
            "correct": n >= 2 * is_early, "finish_reason": "length" if n == 6 else "eos", "macs_full": 1000.0,
            "macs_required": 1000.0 - 100 * n * is_early, "macs_executed": 1000.0 - 50 * n * is_early,
            "longest_loop": n % 4,
        }  # fmt: skip

    return land_rows(tmp_path_factory.mktemp("grouped") / "out", CONFIG, columns)


def over_units(values: list[float], differ: bool = False) -> float:
    """Return the mean over the three units, of the mean over prompts, of the mean over seeds, which may differ."""
    of_prompts = [value + 2.0**-5 * (n % 2) * differ for n, value in enumerate(values)]
    return float(np.mean([np.mean([of_prompts[n] for n in unit]) for unit in UNITS]))


def as_json(out: Path, config: SweepConfig = CONFIG) -> Any:
    return SweepSummary(config, str(out), {}, "float32", 32, 0, RunCounts()).figures()[1]["estimates"]


def in_report(out: Path) -> Any:
    return per_configuration(read_sweep(str(out))).set_index("configuration").loc[KEY]


def test_a_measure_has_one_number_in_the_table_as_json_and_in_the_report(out: Path) -> None:
    found, report = as_json(out), in_report(out)
    logs = [(np.log(value) + np.log(value + 2.0**-4 * (n % 2))) / 2 for n, value in enumerate(MEASURED["perplexity"])]
    expected = {
        **{name: over_units(MEASURED[name], True) for name in ("disagreement", "lcs_share", "mean_depth")},
        "tokens_until_difference": over_units(MEASURED["tokens_until_difference"]),  # whole, the same with both seeds
        "perplexity": np.exp(over_units(logs)),
        "correct": (4 / 6 + 1 + 1) / 3,
        "cut": 1 / 3,
        "loop_share": over_units([n % 4 / 3 for n in range(8)]),
    }
    for name, mean in expected.items():
        assert [found[name]["mean"], report[name]] == pytest.approx([mean, mean]), name
        assert found[name]["n"] == report[f"{name}_n"] == 3, "two prompts and a group"
    forms = {
        "disagreement": ".1%", "loop_share": ".1%", "correct": ".1%", "cut": ".0%", "perplexity": ".4g",
        "tokens_until_difference": ".1f",
    }  # fmt: skip
    shown = {format(expected[name], form) for name, form in forms.items()} | {f"{1 - expected['mean_depth']:.1%}"}
    assert {[*column.cells][1] for column in eexit.open(out).table.columns} >= shown


def test_a_saving_and_a_loss_have_one_number_in_report_package_and_selection(out: Path) -> None:
    def selection(cost: str) -> SelectionData:
        question = SelectionArgs("disagreement", cost=cost, order="passed-on")
        return SelectionData(read_finished(str(out), question.columns), question)

    shown: Any = savings(sweep := read_sweep(str(out)), per_configuration(sweep))
    report, finished = shown.rows.set_index("configuration").loc[KEY], read_finished(str(out), OF_PACKAGE)
    for name, column, saving, each in (
        ("needed", "macs_required", "theoretical", 0.1), ("run", "macs_executed", "run", 0.05),
    ):  # fmt: skip
        found = [report[saving], finished.saved(KEY, column).mean, 1 - selection(name).costs_of("all")[KEY]]
        assert found == pytest.approx([over_units([each * n for n in range(8)])] * 3)
    chosen = selection("depth")
    assert chosen.costs_of("all")[KEY] == pytest.approx(over_units(MEASURED["mean_depth"], True))
    assert chosen.losses("all").losses_of(KEY).mean() == pytest.approx(over_units(MEASURED["disagreement"], True))


def test_the_interval_of_a_mean_is_the_one_of_the_report_and_prompts_of_one_text_count_once(tmp_path: Path) -> None:
    prompts, depths = [Prompt(f"{n}", "the same" if n < 6 else f"{n}?") for n in range(12)], MEASURED["mean_depth"]
    for name, some in (("few", prompts[:8]), ("many", prompts)):
        config = CONFIG.model_copy(update={"prompts": tuple(some)})
        out = land_rows(tmp_path / name, config, lambda run: {"mean_depth": depths[int(run.prompt.id) % 8]})
        found, report = as_json(out, config)["mean_depth"], in_report(out)
        if name == "few":
            mean = pytest.approx(over_units(depths))
            assert (found, report["mean_depth"]) == ({"mean": mean, "low": None, "high": None, "n": 3}, mean)
        else:
            ends = [report[f"mean_depth{end}"] for end in ("", "_low", "_high", "_n")]
            assert [*found.values()] == pytest.approx(ends)
            assert found["low"] < found["mean"] < found["high"]


def test_a_judges_score_has_one_number_in_its_table_and_in_the_report(out: Path, tmp_path: Path) -> None:
    """One judgement of a prompt in the group is unusable: its other seed counts as much as two of another prompt."""
    store, of_seeds = open_store(copytree(out, tmp_path / "judged")), [(5, 1), *[(1, 1)] * 5, (2, 4), (5, 5)]
    runs = read_columns(store, ["run_id", "prompt_id", "configuration", "seed"]).to_pylist()
    rows: list[dict[str, Any]] = []
    for run in runs:
        n, seed = int(run["prompt_id"]), run["seed"]
        fails = (n, seed) == (0, 1)
        scores = dict.fromkeys(ASPECTS, None if fails else of_seeds[n][seed])
        rows.append(blank(JUDGEMENTS) | run | scores | {"judge": "j", "status": "error" if fails else "ok"})
    JUDGEMENTS.publish(store, "0" * 32, rows)
    plan = plan_judging(store.root, "j", [], None)
    table = judgements_table(JUDGEMENTS.rows(store), [KEY], plan.unit_of)
    mean = over_units([5, 1, 1, 1, 1, 1, 3, 5])
    assert [[*column.cells] for column in table.columns[1:3]] == [["3"], [f"{mean:.2f}"]]
    assert in_report(Path(store.root))["clarity_0"] == pytest.approx(mean)
