"""One evaluation by the lm-evaluation-harness: its files as it writes them, and its metrics as rows of `scores`."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker

from eexit.studies.harness.model import EarlyExitLM


@dataclass(frozen=True)
class Evaluated:
    """The harness's files by name, and rows with the columns of `study_tables.SCORES` that it knows."""

    files: Mapping[str, bytes]
    rows: list[dict[str, Any]]


def evaluate(lm: EarlyExitLM, task: str, manager: Any, about: Mapping[str, Any], **settings: Any) -> Evaluated:
    """Evaluate one task, or a group of tasks. `about` says in the results what `lm` is.

    `settings` are arguments of `simple_evaluate`. Raises whatever a task, a filter or a metric may raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_path=folder)
        results = simple_evaluate(
            lm, model_args=dict(about), tasks=[task], task_manager=manager, evaluation_tracker=tracker, **settings
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results, samples)
        for name in results["configs"]:
            tracker.save_results_samples(name, samples[name])
        files = {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    if len(files) < 1 + len(results["configs"]):  # it only logs why it could not write one
        raise OSError(f"the harness wrote {len(files)} files of results, too few: is the disk full?")
    return Evaluated(files, list(score_rows(results)))


def score_rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each task or group, metric and filter."""
    for task, metrics in {**results["results"], **results.get("groups", {})}.items():
        for name, value in metrics.items():
            metric, is_metric, filtered = name.partition(",")
            if not is_metric or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{filtered}")
            version = results["versions"].get(task)
            yield {
                "task": task,
                "version": None if version is None else str(version),
                "n_shot": results["n-shot"].get(task),
                "metric": metric,
                "filter": filtered,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                "n": metrics.get("sample_len") or results["n-samples"].get(task, {}).get("effective"),
                "higher_is_better": results["higher_is_better"].get(task, {}).get(metric),
            }
