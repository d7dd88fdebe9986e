"""A small sweep with answers, judgements, replays and choices, whose numbers can be computed by hand.

Two modes × two rules × two parameters, with controls. Accuracy falls with the boldness of a setting, and controls are
worse.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.dataset as ds
from synthetic_sweeps import run_rows, write_runs

from eexit.method.rules import CONTROL, ExitHistogram
from eexit.plan.configuration import COLUMNS, NORMAL, Configuration, EarlyExit, NoExit
from eexit.results.store.folder import open_store
from eexit.results.study_table import StudyTable
from eexit.results.study_tables import CHOICES, JUDGEMENTS, REPLAYS
from reports.read.sweep import read_sweep
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration
from reports.shared.quality import QualityTable, quality_of
from reports.shared.savings import savings

PARAMETERS: Final = {"confidence": (0.7, 0.9), "kl": (0.5, 2.0)}
JUDGE: Final = "judge-1"
CHOSEN: Final = "unfrozen/confidence/0.9"


def grid(modes: Sequence[str] = ("unfrozen", "frozen_residual")) -> list[Configuration]:
    """Return `normal`, then each setting with its control."""
    found: list[Configuration] = [NoExit()]
    for mode in modes:
        for rule, parameters in PARAMETERS.items():
            for parameter in parameters:
                followed = EarlyExit(mode, rule, parameter)
                found += [followed, EarlyExit(mode, CONTROL, ExitHistogram(followed.key, ()))]
    return found


def boldness(configuration: Configuration) -> float:
    """Return how much the configuration exits early, from 0 to 1. A control has its configuration's boldness."""
    key = str(configuration.columns["control_of"] or configuration.key)
    return {"0.7": 0.8, "0.9": 0.3, "0.5": 0.6, "2": 0.2}.get(key.rpartition("/")[2], 0.0)


def with_answers(
    folder: Path,
    n_prompts: int = 12,
    seeds: Sequence[int] = (0,),
    modes: Sequence[str] = ("unfrozen", "frozen_residual"),
) -> Path:
    """Write the sweep without study tables. Prompts 0 and 1 have no answer."""
    draw = np.random.default_rng(3)
    runs = []
    for prompt in range(n_prompts):
        hard = draw.uniform()
        for configuration in grid(modes):
            bold = boldness(configuration)
            worse = bold * (2.0 if configuration.columns["control_of"] else 1.0)
            for seed in seeds:
                k = None if configuration.mode == NORMAL else 1.0
                right = bool(hard + 0.3 * worse + 0.1 * draw.uniform() < 0.8)
                numbers: dict[str, Any] = {
                    "mean_depth": 1 - 0.4 * bold,
                    "exit_rate": bold, "disagreement": 0.25 * worse, "lcs_share": 1 - 0.5 * worse,
                    "perplexity": 3 + worse, "answer": "42" if prompt > 1 else None,
                    "found_answer": ("42" if right else "41") if prompt > 1 else None,
                    "correct": right if prompt > 1 else None,
                    "macs_full": 100.0, "macs_required": 100 - 40 * bold,
                    "macs_executed": None if configuration.columns["rule"] == "kl" else 110 - 60 * bold,
                }  # fmt: skip
                asked = f"{prompt}", f"Question {prompt}?", configuration.mode, k, ["a", "b", "c", "d"], seed
                runs.append(run_rows(*asked, of=configuration, **numbers))
    return write_runs(folder, runs, float(len(seeds) > 1))


def quality_in(folder: Path) -> QualityTable:
    """Return the quality of the sweep in this folder, as in its report."""
    sweep = read_sweep(str(folder))
    trade = per_configuration(sweep)
    found = quality_of(sweep, trade, PairedRuns.from_sweep(sweep).differences(), savings(sweep, trade))
    assert found
    return found


def graded(folder: Path, marks: Mapping[Configuration, str], seeds: Sequence[int] = (0,), **exits: Any) -> Path:
    """Write a sweep with given answers: a letter of `marks` per prompt, ✓ where the configuration is right.

    `exits` are numbers of all runs but `normal`'s.
    """
    runs = []
    for configuration, of_prompts in marks.items():
        for prompt, mark in enumerate(of_prompts):
            for seed in seeds:
                k = None if configuration.mode == NORMAL else 1.0
                words = ["So", " it", " is", " 42" if mark == "✓" else " 41"]
                asked = f"{prompt}", f"Question {prompt}?", configuration.mode, k, words, seed
                found: dict[str, Any] = {"answer": "42", "found_answer": words[-1].strip(), "correct": mark == "✓"}
                found |= {"macs_full": 100.0, "macs_executed": 100.0} | (exits if k else {}) if exits else {}
                runs.append(run_rows(*asked, of=configuration, **found))
    return write_runs(folder, runs, float(len(seeds) > 1))


def add(folder: Path, table: StudyTable, rows: Iterable[dict[str, Any]], call: int = 1) -> None:
    """Write a file of a study table, like a call of the command."""
    table.publish(open_store(folder), f"{call:032x}", [{"started": call} | row for row in rows])


def judge(folder: Path, fails: Sequence[str] = (), call: int = 1, **change: Any) -> None:
    """Add judgements of all runs of the sweep; the runs in `fails` have an error instead."""
    identity = ["run_id", "prompt_id", "seed", *COLUMNS]
    rows = []
    for run in ds.dataset(folder / "generations").to_table(columns=[*identity, "disagreement"]).to_pylist():
        score = 5 - round(10 * run["disagreement"])
        row = {name: run[name] for name in identity} | {"judge": JUDGE, "rubric": "1", "text_hash": "0"}
        if run["run_id"] in fails:
            row |= {"status": "error", "error": "it answered with nonsense"}
        else:
            row |= {"status": "ok", "coherence": score, "completeness": score, "clarity": 5, "no_repetition": 4}
        rows.append(row | change)
    add(folder, JUDGEMENTS, rows, call)


def replay(folder: Path, call: int = 1, factors: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0), **change: Any) -> None:
    """Add replays of rule `kl` in both modes on the texts of `normal`."""
    rows = []
    for mode in ("unfrozen", "frozen_residual"):
        for k in factors:
            bold = 1 / (1 + k)
            depth, differs = 1 - 0.4 * bold, 0.2 * bold
            rows.append(
                EarlyExit(mode, "kl", k).columns
                | {
                    "replay_id": f"{call:032x}", "text_of": NORMAL, "prompts": 12, "texts": 12, "tokens": 36,
                    "drawn": False, "mean_depth": depth, "mean_depth_low": depth - 0.02,
                    "mean_depth_high": depth + 0.01, "expected_kl": 2 * differs, "expected_disagreement": differs,
                    "expected_disagreement_low": differs - 0.01, "expected_disagreement_high": differs + 0.01,
                    "exit_distribution": [], "macs_full": 100.0, "macs_required": 100 - 40 * bold, "model": "tiny",
                }
                | change
            )  # fmt: skip
    add(folder, REPLAYS, rows, call)


def choose(
    folder: Path,
    call: int = 1,
    chosen: str | None = CHOSEN,
    needed: int | None = None,
    of_prompts: float | None = None,
    **change: Any,
) -> None:
    """Add the result of a call of `eexit choose` for disagreement: a chosen setting, or none that can be certified.

    `of_prompts` is the loss over single prompts where groups differ in size.
    """
    tested = [
        {
            "configuration": key,
            "mean_loss": mean,
            "n": 150,
            "p_value": p,
            "certified": chosen == key,
            "cost": cost,
            "prompts_needed": needed,
            "loss_of_prompts": of_prompts,
            "n_of_prompts": of_prompts and 813,
        }
        for key, mean, p, cost in ((CHOSEN, 0.021, 0.004, 0.92), ("unfrozen/confidence/0.7", 0.049, 0.4, 0.62))
    ]
    its = {
        "configuration": chosen, "mean_loss": 0.021, "n": 150, "p_value": 0.004, "cost": 0.92,
        "reporting_mean_loss": 0.03, "reporting_n": 50, "reporting_upper": 0.08, "reporting_p_value": 0.2,
    }  # fmt: skip
    naive = {
        "naive_configuration": "unfrozen/confidence/0.7", "naive_mean_loss": 0.049, "naive_n": 150,
        "naive_p_value": 0.4, "naive_cost": 0.62, "naive_reporting_mean_loss": 0.06, "naive_reporting_n": 50,
        "naive_reporting_upper": 0.12, "naive_reporting_p_value": 0.7,
    }  # fmt: skip
    row = {
        "choice_id": f"{call:032x}", "status": "ok", "risk": "disagreement", "loss": "a loss",
        "max_risk": 0.05, "confidence": 0.95, "question": 1, "planned": 1, "error": 0.05,
        "cost_by": "run", "families": ["unfrozen/confidence"], "error_of_each": 0.05, "seeds": 1, "tested": tested,
        **(its if chosen else {}), **naive,
    }  # fmt: skip
    add(folder, CHOICES, [row | change], call)
