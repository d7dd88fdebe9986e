"""A finished sweep of scripted runs from which settings are chosen, and the choice without a command."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from driving import land_rows
from rich.console import Console
from scripted import sweep_of

from cluster.studies.run import run_study
from eexit.output.progress import NullDisplay
from eexit.plan.runs import Run
from eexit.plan.splits import in_test_split
from eexit.quality.learn_then_test import PASSED_ON
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES
from eexit.studies.selection.selection_args import SelectionArgs
from eexit.studies.selection.study import SelectionStudy

PROMPTS = [f"What is {n} plus {n}?" for n in range(120)]
CHOOSING = [prompt for prompt in PROMPTS if not in_test_split(prompt)]
REPORTING = [prompt for prompt in PROMPTS if in_test_split(prompt)]
SEEDS = (0, 1)
RULES = {"confidence": (0.5, 0.9, 0.99), "fixed": (5.0,), "agree": (), "kl": (1.0,)}
CONFIG = sweep_of("a-model", *PROMPTS, rules=RULES, modes=["normal", "skip"], seeds=SEEDS)
ALONE = CONFIG.model_copy(update={"rules": {"confidence": (0.9,)}, "seeds": (0,)})  # one setting, one seed
COSTS = {"skip/confidence/0.99": 0.9, "skip/confidence/0.9": 0.7, "skip/confidence/0.5": 0.4, "skip/fixed/5": 0.6}


def disagreement(key: str, seed: int) -> float:
    """Return nothing for 0.99; 4 % on average for 0.9, as 0 and 8 % with the two seeds; 30 % for others."""
    return {"normal": 0, "skip/confidence/0.99": 0, "skip/confidence/0.9": 0.08 * seed}.get(key, 0.3)


def number(run: Run) -> dict[str, Any]:
    key = run.configuration.key
    share = COSTS.get(key)
    return {
        "disagreement": disagreement(key, run.seed), "perplexity": 2.0, "mean_depth": share or 0.5, "macs_full": 100.0,
        "macs_required": 100.0 * (share or 0.5),
        "macs_executed": 100.0 * (share or 1) if key == "normal" or share else None,
    }  # fmt: skip


def land(out: Path, config: Any = ALONE, columns: Callable[[Run], Mapping[str, Any]] = lambda run: {}) -> Path:
    return land_rows(out, config, lambda run: {**number(run), **columns(run)})


def _chosen(out: Path, **asked: Any) -> tuple[dict[str, Any], Sequence[Any]]:
    question = SelectionArgs(**{"risk": "disagreement", "order": PASSED_ON, **asked})
    plan = partial(SelectionStudy, question=question)
    study = run_study(str(out), plan, display=NullDisplay(), columns=question.columns).study
    row: dict[str, Any] = CHOICES.read(open_store(out)).to_pylist()[-1]
    return row, study.summary([row])


def select(out: Path, **asked: Any) -> tuple[dict[str, Any], str]:
    """Return the row of a choice in the order that needs no pilot, and what is printed, on one line."""
    row, summary = _chosen(out, **asked)
    return row, " ".join(" ".join(map(str, summary)).split())


def printed(out: Path, **asked: Any) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        for part in _chosen(out, **asked)[1]:
            console.print(part, markup=False, highlight=False)
    return "\n".join(map(str.rstrip, captured.get().splitlines())).strip("\n").splitlines()
