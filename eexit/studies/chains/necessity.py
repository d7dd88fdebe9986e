"""Necessity: accuracy with the thinking minus accuracy of follow-up prompts without it, by configuration.

A finished sweep and the sweeps of its follow-up prompts (`follow_ups`) are joined by the prompts' `group`. Seeds are
averaged first, a group of prompts counts once, and a failed run counts as wrong.

Shapes: P groups of prompts, C configurations.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from eexit.errors import UsageError
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, interval, percent
from eexit.plan.configuration import mode_of
from eexit.plan.splits import sampling_units
from eexit.quality.estimates import NOTHING, Estimate, ValueKind, estimate_columns
from eexit.quality.risks import WRONG, losses
from eexit.results.configuration_means import cut_shares, cut_warning
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.store.manifest import first_difference, identity_of
from eexit.results.study_tables import CHAINS
from eexit.results.tables import CONFIGURATION
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit

COLUMNS: Final = ("prompt_id", "configuration", "seed", "status", "finish_reason", "correct", "n_thinking_tokens")
CAPTION: Final = (
    "With: right answers after the chain that was written; without: after what follow-up prompts had in its place. "
    "Necessity: with less without, in points, paired over prompts. Beside control: necessity less that of the control, "
    "which exits as often at each layer, whatever the token. Intervals at 95 %."
)
Rights = Mapping[str, np.ndarray]  # configuration → accuracy of each group, (P,); NaN where unknown


class ChainVariant(NamedTuple):
    """Edit that made some follow-up prompts, and the configuration that wrote their thinking, if they have any."""

    chain: str
    writer: str

    def for_control(self, key: str, control: str) -> "ChainVariant":
        """Return the edit to compare a control by: if the configuration edited its own chains, so does the control."""
        return ChainVariant(self.chain, control) if self.writer == key else self


class NecessityStudy(Study):
    """Study of how much answers need the chain of thought; one unit has all rows."""

    table, doing = CHAINS, "comparing"

    def __init__(self, sweep: FinishedSweep, follow_ups: Sequence[str]) -> None:
        """Read a sweep's runs, and those of `follow_ups`, the locations of the sweeps of its follow-up prompts.

        Raise `UsageError` if the sweep has no thinking or no checked answers, or if follow-up prompts were made from
        another sweep.
        """
        if sweep.runs["n_thinking_tokens"].null_count == len(sweep.runs):
            raise UsageError(f"{sweep.name} has no chains of thought: run it with --thinking or --thinking-until")
        if sweep.runs["correct"].null_count == len(sweep.runs):
            raise UsageError(f"{sweep.name} has no answers to check: sweep prompts that have an answer")
        self._sweep, self._follow_ups = sweep, tuple(follow_ups)
        prompts = sweep.manifest.config["prompts"]
        self._unit_of = sampling_units(prompts)
        self._units = list(dict.fromkeys(self._unit_of.values()))
        steps_of = {self._unit_of[prompt["id"]]: prompt.get("steps") or 0 for prompt in prompts}
        self._steps_P = np.array([steps_of[unit] for unit in self._units])
        self._with = self._rights(self._of_originals(sweep.runs, sweep.runs["prompt_id"].to_pylist(), ""))
        self._cut_shares = cut_shares(sweep.runs, self._unit_of)
        parts: dict[ChainVariant, list[pa.Table]] = {}
        for number, location in enumerate(follow_ups):
            other = read_finished(location, COLUMNS, "--necessity")
            shares = cut_shares(other.runs, other.unit_of)
            self._cut_shares |= {f"{key} in {other.name}": share for key, share in shares.items()}
            for kept, runs in self._followed(other, number):
                parts.setdefault(kept, []).append(runs)
        self._without = {kept: self._rights(pa.concat_tables(runs)) for kept, runs in parts.items()}

    def _followed(self, other: FinishedSweep, number: int) -> Iterator[tuple[ChainVariant, pa.Table]]:
        """Yield each edit in follow-up sweep number `number`, and its runs with the ids of the original prompts."""
        sweep = self._sweep
        if difference := first_difference(
            identity_of(sweep.manifest.model), identity_of(other.manifest.model), "model"
        ):
            raise UsageError(f"--necessity {other.name} is not of the model of {sweep.name} ({difference})")
        kept_of, original_of = {}, {}
        for prompt in other.manifest.config["prompts"]:
            prompt_id, group = prompt["id"], prompt.get("group") or ""
            if group not in self._unit_of or not prompt_id.startswith(f"{group}/"):
                raise UsageError(
                    f"--necessity {other.name}: prompt {prompt_id} follows up {group or 'no group'}, which "
                    f"{sweep.name} has no prompt of: give the sweep that eexit chains made its prompts from"
                )
            chain, _, writer = prompt_id.removeprefix(f"{group}/").partition("/")
            kept_of[prompt_id], original_of[prompt_id] = ChainVariant(chain, writer), group
        ids = other.runs["prompt_id"].to_pylist()
        runs = self._of_originals(other.runs, [original_of[each] for each in ids], f"{number}/")
        for kept in dict.fromkeys(kept_of.values()):
            yield kept, runs.filter(pa.array([kept_of[each] == kept for each in ids], pa.bool_()))

    def _of_originals(self, runs: pa.Table, ids: Sequence[str], before: str) -> pa.Table:
        """Return the runs with the ids of their original prompts, and with the columns of `losses`.

        Seeds of other sweeps are further draws, whose names begin with `before`.
        """
        draws = [f"{before}{seed}" for seed in runs["seed"].to_pylist()]
        named = {"prompt_id": ids, "unit": [self._unit_of[each] for each in ids], "draw": draws}
        table = runs.select(["configuration", "status", "correct"])
        return pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **named})

    def _rights(self, runs: pa.Table) -> Rights:
        wrong = losses(WRONG, runs)
        at = {unit: index for index, unit in enumerate(wrong.units)}
        row_P = np.array([at.get(unit, len(at)) for unit in self._units])
        right_PC = np.vstack([1 - wrong.loss_PC, np.full((1, len(wrong.configurations)), np.nan)])[row_P]
        return dict(zip(wrong.configurations, right_PC.T, strict=True))

    def units(self) -> Sequence[StudyUnit]:
        return [StudyUnit([StudyPart(self.doing)])]

    def run_part(self, part: StudyPart) -> PartResult:
        return PartResult(list(self._rows()))

    def _rows(self) -> Iterator[Row]:
        controls = {
            of: each["key"]
            for each in self._sweep.manifest.configurations
            if (of := each["control_of"]) and mode_of(of) == each["mode"]
        }
        steps = sorted({*self._steps_P.tolist()} - {0})
        for kept in sorted(self._without):
            for entry in self._sweep.manifest.configurations:
                key = entry["key"]
                needs_P = self._needs(key, kept)
                control = controls.get(key, "")
                beside_P = needs_P - self._needs(control, kept.for_control(key, control))
                if np.isnan(needs_P).all():
                    continue
                for n in (None, *steps):
                    at_P = ~np.isnan(needs_P) & (True if n is None else self._steps_P == n)
                    if at_P.any():
                        yield {
                            **{name: entry.get(name) for name in CONFIGURATION},
                            "chain": kept.chain,
                            "chain_of": kept.writer or None,
                            "steps": n,
                            **_columns("accuracy", _mean(self._with[key][at_P], ValueKind.SHARE)),
                            **_columns("accuracy_without", _mean(self._without[kept][key][at_P], ValueKind.SHARE)),
                            **_columns("necessity", _mean(needs_P[at_P], ValueKind.DIFFERENCE)),
                            **_columns("beside_control", _twice(_mean(beside_P[at_P] / 2, ValueKind.DIFFERENCE))),
                            "follow_ups": self._follow_ups,
                        }

    def _needs(self, key: str, kept: ChainVariant) -> np.ndarray:
        """Return configuration `key`'s accuracy with the thinking minus its accuracy after the edit `kept`, (P,)."""
        unknown_P = np.full(len(self._units), np.nan)
        needs_P: np.ndarray = self._with.get(key, unknown_P) - self._without.get(kept, {}).get(key, unknown_P)
        return needs_P

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        return [
            chains_table([row for row in rows if row["steps"] is None]),
            *filter(None, [cut_warning(self._cut_shares)]),
        ]


def _mean(values_P: np.ndarray, kind: ValueKind) -> Estimate:
    return estimate_columns(values_P[:, None], [kind])[0] if len(values_P) else NOTHING


def _twice(half: Estimate) -> Estimate:
    """Double an estimate: a difference of differences in [−2, 2] gets the interval of its half, which is in [−1, 1]."""
    return replace(half, mean=2 * half.mean, low=2 * half.low, high=2 * half.high)


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {column: None if math.isnan(value) else value for column, value in estimate.columns(name).items()}


def chains_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return the table of necessity: a section for each edit of the chains, a line for each configuration."""
    table = ResultTable(CAPTION)
    table.add("key", "setting")
    table.add("name", "chain")
    table.add("key", "of")
    table.add(
        "number", "n", "with", "with\xad\nout", "neces\xad\nsity", "95 %\ninterval", "beside\ncontrol", "95 %\ninterval"
    )
    for row in rows:
        points = [
            cell
            for name in ("necessity", "beside_control")
            for cell in (
                format_number(_points(row[name]), "+.1f"),
                interval(_points(row[f"{name}_low"]), _points(row[f"{name}_high"]), "+.1f"),
            )
        ]
        shares = [percent(row[name]) for name in ("accuracy", "accuracy_without")]
        n = f"{row['necessity_n']:.0f}"
        table.add_in(row["chain"], row["configuration"], row["chain"], row["chain_of"] or "–", n, *shares, *points)
    return table


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share
