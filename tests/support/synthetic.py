"""A synthetic sweep with the project's rules, made without a model, for reports.

Numbers follow from a configuration's place in the grid: later ones are shallower, and disagree more.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthetic_sweeps import LAYERS, run_rows, story, write_runs

from eexit.method.rules import CONTROL, ONLINE, ORACLES, ExitHistogram
from eexit.plan.configuration import COLUMNS, GENERATE, Configuration, EarlyExit, NoExit
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS


def rules_grid() -> list[Configuration]:
    """Return `normal`, and two modes × three rules; settings of the first rule have a control each."""
    found: list[Configuration] = [NoExit()]
    for mode in ("unfrozen", "frozen_residual"):
        for k in (0.25, 1.0, 4.0):
            followed = EarlyExit(mode, "kl", k)
            found += [followed, EarlyExit(mode, CONTROL, ExitHistogram(followed.key, ()))]
        found += [EarlyExit(mode, "fixed", float(layer)) for layer in LAYERS[1:]]
        found.append(EarlyExit(mode, "agree"))
    return found


def every_rule_grid() -> list[Configuration]:
    """Return `normal`, every rule at one or two parameters, and a control of one of them."""
    parameters: dict[str, tuple[float | None, ...]] = {
        "kl": (1.0,), "agree": (None,), "confidence": (0.6, 0.8), "margin": (0.4, 0.7), "entropy": (0.3, 1.0),
        "similarity": (0.95, 0.97), "patience": (2.0, 3.0), "predicted_kl": (1.0, 2.0),
        "fixed": (10.0, 20.0),
    }  # fmt: skip
    found: list[Configuration] = [NoExit()]
    found += [EarlyExit("frozen_residual", rule, each) for rule, several in parameters.items() for each in several]
    followed = EarlyExit("frozen_residual", "confidence", 0.8)
    found += [EarlyExit("frozen_residual", CONTROL, ExitHistogram(followed.key, ()))]
    return [*found, *(EarlyExit("unfrozen", rule, several[0]) for rule, several in parameters.items())]


def write_synthetic_sweep(
    folder: Path, n_prompts: int, grid: Sequence[Configuration], n_tokens: int, timed: bool = False
) -> Path:
    """Write `n_prompts` × `grid` runs of `n_tokens`; with `timed`, they have timings too."""
    runs = []
    for prompt in range(n_prompts):
        for place, configuration in enumerate(grid):
            mode, k = configuration.mode, 1.0 if isinstance(configuration, EarlyExit) else None
            asked = f"{prompt}", f"Question {prompt}?", mode, k, story(prompt, mode, k, n_tokens)
            row, rows = run_rows(*asked, of=configuration, **_numbers(configuration, place / len(grid)))
            runs.append((row, [token | _seen(configuration, token) for token in rows]))
    write_runs(folder, runs)
    if timed:
        TIMINGS.publish(open_store(folder), "0" * 32, _timings([row for row, _ in runs[: len(grid)]]))
    return folder


def _numbers(configuration: Configuration, boldness: float) -> dict[str, Any]:
    """Return numbers that the report averages. Controls disagree far more than settings; oracles have no run cost."""
    if not isinstance(configuration, EarlyExit):
        return {
            "disagreement": 0.0,
            "mean_depth": 1.0,
            "macs_full": 100.0,
            "macs_required": 100.0,
            "macs_executed": 100.0,
        }
    return {
        "disagreement": 0.1 + 0.3 * boldness + (0.4 if configuration.rule == CONTROL else 0.0),
        "exit_rate": 0.2 + 0.5 * boldness,
        "mean_depth": 0.9 - 0.4 * boldness,
        "macs_full": 100.0,
        "macs_required": 90.0 - 30 * boldness,
        "macs_executed": None if configuration.is_oracle else 95.0 - 30 * boldness,
    }


def _seen(configuration: Configuration, token: Mapping[str, Any]) -> dict[str, Any]:
    """Return the exit score at each layer, if the rule has one; the first token has no exit decision."""
    if (
        not token["decided"]
        or not isinstance(configuration, EarlyExit)
        or configuration.rule not in {**ONLINE, **ORACLES}
    ):
        return {"exit_score": None}
    return {"exit_score": token["kl"] if configuration.rule == "kl" else [float(layer > 10) for layer in LAYERS]}


def _timings(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return timings of all configurations but oracles, by their run cost, and of transformers' slower `generate`."""
    rows = []
    timed = [(run["configuration"], run["macs_executed"], run) for run in runs if run["macs_executed"]]
    for batch in (1, 8):
        for number in range(1, 6):
            for key, seconds, run in [*timed, (GENERATE, 125.0, {})]:
                its = {
                    name: run[name] for name in (*COLUMNS, "macs_full", "macs_required", "macs_executed") if name in run
                }
                rows.append(
                    {
                        "started": 1_770_000_000_000_000, "batch": batch, "round": number, "prompts": 1, "tokens": 100,
                        "seconds": seconds * (1 + number / 10) / batch, "device": "cpu", "machine": "Synthetic CPU",
                        "threads": 2, "versions": "none", "model": "tiny", "dtype": "float32",
                        **its, "configuration": key,
                    }
                )  # fmt: skip
    return rows
