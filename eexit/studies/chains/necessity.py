"""Necessity: accuracy of follow-up prompts with the whole chain of thought minus accuracy of those with an edit.

A finished sweep and the sweeps of its follow-up prompts (`follow_ups`) are joined by the prompts' `group`. All
follow-ups end in the same closing words. So an answer that is missing only because its chain never closed is no need
for the chain. Seeds are averaged first, a group of prompts counts once, and a failed run counts as wrong.

Shapes: I prompts by id, S draws (seeds).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from eexit.errors import UsageError
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, interval, percent
from eexit.plan.configuration import NORMAL, mode_of
from eexit.plan.splits import sampling_units
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, means_of_units
from eexit.quality.risks import WRONG, losses
from eexit.results.configuration_means import cut_shares, cut_warning
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.store.manifest import first_difference, identity_of
from eexit.results.study_tables import CHAINS, NO_CHAIN, WHOLE_CHAIN
from eexit.results.tables import CONFIGURATION
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit

COLUMNS: Final = (
    "prompt_id", "configuration", "seed", "status", "finish_reason", "correct", "n_thinking_tokens", "thinking_closed",
)  # fmt: skip
OF_NECESSITY: Final = (
    "Closed: chains that closed by themselves. Right: in the sweep itself. With: after the whole chain, in follow-ups; "
    "without: after follow-ups with the edit in its place. Necessity: with less without, in points, paired over "
    "prompts; of all, and of prompts whose chains closed. Intervals at 95 %."
)
OF_DIFFERENCES: Final = (
    "Necessity less that of full depth, in points, paired over prompts: of all, and of prompts whose chains closed in "
    "both. Less control: necessity less that of the control, which exits as often at each layer, whatever the token."
)
OF_ANSWERS: Final = (
    "Right answers in the sweep itself less those of full depth, in points, of prompts whose chains closed in both."
)
INTERVAL: Final = "95 %\ninterval"
Values = Mapping[str, np.ndarray]  # configuration → accuracy of each prompt, (I,); NaN where unknown


class ChainEdit(NamedTuple):
    """Edit that made some follow-up prompts, and the configuration that wrote their thinking, if they have any."""

    chain: str
    writer: str


class NecessityStudy(Study):
    """Study of how much answers need the chain of thought; one unit has all rows."""

    table, doing = CHAINS, "comparing"

    def __init__(self, sweep: FinishedSweep, follow_ups: Sequence[str]) -> None:
        """Read a sweep's runs, and those of `follow_ups`, the locations of the sweeps of its follow-up prompts.

        Raise `UsageError` if the sweep has no thinking or no checked answers, if follow-up prompts were made from
        another sweep, or if those with whole chains are missing.
        """
        if sweep.runs["n_thinking_tokens"].null_count == len(sweep.runs):
            raise UsageError(f"{sweep.name} has no chains of thought: run it with --thinking or --thinking-until")
        if sweep.runs["correct"].null_count == len(sweep.runs):
            raise UsageError(f"{sweep.name} has no answers to check: sweep prompts that have an answer")
        self._sweep, self._follow_ups = sweep, tuple(follow_ups)
        prompts = sweep.manifest.config["prompts"]
        unit_of = sampling_units(prompts)
        self._at = {prompt["id"]: index for index, prompt in enumerate(prompts)}
        self._unit_I = [unit_of[prompt_id] for prompt_id in self._at]
        self._steps_I = np.array([prompt.get("steps") or 0 for prompt in prompts])
        self._unknown_I = np.full(len(prompts), np.nan)
        self._accuracy = self._accuracies(_of_originals(sweep.runs, sweep.runs["prompt_id"].to_pylist(), ""))
        self._closed_runs, self._right_runs = (self._by_seed(name) for name in ("thinking_closed", "correct"))
        self._cut_shares = cut_shares(sweep.runs, unit_of)
        parts: dict[ChainEdit, list[pa.Table]] = {}
        for number, location in enumerate(follow_ups):
            other = read_finished(location, COLUMNS, "--necessity")
            shares = cut_shares(other.runs, other.unit_of)
            self._cut_shares |= {f"{key} in {other.name}": share for key, share in shares.items()}
            for edit, runs in self._followed(other, number):
                parts.setdefault(edit, []).append(runs)
        self._after = {edit: self._accuracies(pa.concat_tables(runs)) for edit, runs in parts.items()}
        self._edits = sorted(edit for edit in self._after if edit.chain != WHOLE_CHAIN)
        self._refuse_missing()

    def _followed(self, other: FinishedSweep, number: int) -> Iterator[tuple[ChainEdit, pa.Table]]:
        """Yield each edit in follow-up sweep number `number`, and its runs with the ids of the original prompts."""
        sweep = self._sweep
        ours, theirs = (identity_of(each.manifest.model) for each in (sweep, other))
        if difference := first_difference(ours, theirs, "model"):
            raise UsageError(f"--necessity {other.name} is not of the model of {sweep.name} ({difference})")
        edit_of, original_of = {}, {}
        for prompt in other.manifest.config["prompts"]:
            prompt_id, group = prompt["id"], prompt.get("group") or ""
            if group not in self._at or not prompt_id.startswith(f"{group}/"):
                raise UsageError(
                    f"--necessity {other.name}: prompt {prompt_id} follows up {group or 'no group'}, which "
                    f"{sweep.name} has no prompt of: give the sweep that eexit chains made its prompts from"
                )
            chain, _, writer = prompt_id.removeprefix(f"{group}/").partition("/")
            edit_of[prompt_id], original_of[prompt_id] = ChainEdit(chain, writer), group
        ids = other.runs["prompt_id"].to_pylist()
        runs = _of_originals(other.runs, [original_of[each] for each in ids], f"{number}/")
        for edit in dict.fromkeys(edit_of.values()):
            yield edit, runs.filter(pa.array([edit_of[each] == edit for each in ids], pa.bool_()))

    def _refuse_missing(self) -> None:
        """Raise `UsageError` for follow-ups without an edit, or without those with whole chains to compare with."""
        names = ", ".join(self._follow_ups)
        if not self._edits:
            raise UsageError(f"all follow-ups in {names} have the whole chain: sweep some with another, as of --keep 0")
        for edit in self._edits:
            for key, right_I in self._after[edit].items():
                needs = [self._necessity(key, edit.chain, writer) for writer in self._writers(edit)]
                if not np.isnan(right_I).all() and np.isnan([self._unknown_I, *needs]).all():
                    writer = edit.writer or key
                    raise UsageError(
                        f"{key} has follow-ups with {edit.chain} in {names}, and none with whole chains to compare "
                        f"them with: write these by eexit chains {self._sweep.name} --configuration {writer} "
                        "--keep 100 --out whole.jsonl, sweep them, and give their results too"
                    )

    def _accuracies(self, runs: pa.Table) -> Values:
        wrong = losses(WRONG, runs)
        right_IC = np.full((len(self._at), len(wrong.configurations)), np.nan)
        right_IC[[self._at[prompt_id] for prompt_id in wrong.units]] = 1 - wrong.loss_PC
        return dict(zip(wrong.configurations, right_IC.T, strict=True))

    def _by_seed(self, column: str) -> Values:
        """Return a flag of the sweep's runs by configuration, (S, I); NaN where unknown."""
        seeds = self._sweep.manifest.config["seeds"]
        found = {each["key"]: np.full((len(seeds), len(self._at)), np.nan) for each in self._configurations}
        for run in self._sweep.runs.select(["configuration", "seed", "prompt_id", column]).to_pylist():
            if run["configuration"] in found and run[column] is not None:
                found[run["configuration"]][seeds.index(run["seed"]), self._at[run["prompt_id"]]] = run[column]
        return found

    @property
    def _configurations(self) -> Sequence[Mapping[str, Any]]:
        return self._sweep.manifest.configurations

    def _writers(self, edit: ChainEdit) -> Sequence[str]:
        """Return the configurations with whose whole chains to compare an edit."""
        whole = sorted(each.writer for each in self._after if each.chain == WHOLE_CHAIN)
        return [edit.writer] if edit.writer else whole

    def units(self) -> Sequence[StudyUnit]:
        return [StudyUnit([StudyPart(self.doing)])]

    def run_part(self, part: StudyPart) -> PartResult:
        return PartResult(list(self._rows()))

    def _rows(self) -> Iterator[Row]:
        controls = {
            of: each["key"]
            for each in self._configurations
            if (of := each["control_of"]) and mode_of(of) == each["mode"]
        }
        steps = (None, *sorted({*self._steps_I.tolist()} - {0}))
        for edit in self._edits:
            for entry in self._configurations:
                for writer, n in product(self._writers(edit), steps):
                    at_I = np.full(len(self._at), True) if n is None else self._steps_I == n
                    columns = self._columns(entry["key"], edit.chain, writer, controls.get(entry["key"], ""), at_I)
                    if columns["necessity_n"]:
                        of_row = {"chain": edit.chain, "chain_of": writer, "steps": n, "follow_ups": self._follow_ups}
                        yield {**{name: entry.get(name) for name in CONFIGURATION}, **of_row, **columns}

    def _columns(self, key: str, chain: str, writer: str, control: str, at_I: np.ndarray) -> Row:
        """Return the estimates of a row, over the prompts `at_I`."""
        necessity_I = np.where(at_I, self._necessity(key, chain, writer), np.nan)
        closed_I = self._closed(writer)

        def difference(other: str) -> tuple[np.ndarray, np.ndarray]:
            """Return the necessity less that of another configuration, and whether the chains closed in both, (I,)."""
            wrote = other if writer == key else writer
            return necessity_I - self._necessity(other, chain, wrote), closed_I * self._closed(wrote)

        full_depth = "" if key == NORMAL else NORMAL
        beside_I, both_closed_I = difference(full_depth)
        right_SI = self._right_runs[key] - self._right_runs.get(full_depth, self._unknown_I)
        closed_SI = self._closed_runs[key] * self._closed_runs.get(full_depth, self._unknown_I)
        shares = {
            "accuracy": self._accuracy[key],
            "closed": closed_I,
            "accuracy_with": self._right_after(key, WHOLE_CHAIN, writer),
            "accuracy_without": self._right_after(key, chain, writer),
        }
        differences = {
            "necessity": necessity_I,
            "necessity_closed": np.where(closed_I == 1, necessity_I, np.nan),
            "accuracy_beside_normal_closed": np.where(at_I & (closed_SI == 1), right_SI, np.nan),
        }
        of_differences = {
            "beside_normal": beside_I,
            "beside_normal_closed": np.where(both_closed_I == 1, beside_I, np.nan),
            "beside_control": difference(control)[0],
        }
        found: dict[str, Estimate] = {}
        for name, values_I in shares.items():
            found[name] = self._estimate(np.where(np.isnan(necessity_I), np.nan, values_I), ValueKind.SHARE)
        for name, values in differences.items():
            found[name] = self._estimate(values, ValueKind.DIFFERENCE)
        for name, values_I in of_differences.items():
            found[name] = _twice(self._estimate(values_I / 2, ValueKind.DIFFERENCE))
        columns = {column: value for name, of in found.items() for column, value in of.columns(name).items()}
        return {column: None if math.isnan(value) else value for column, value in columns.items()}

    def _necessity(self, key: str, chain: str, writer: str) -> np.ndarray:
        """Return configuration `key`'s accuracy after whole chains of `writer` minus after their edit `chain`, (I,)."""
        needs_I: np.ndarray = self._right_after(key, WHOLE_CHAIN, writer) - self._right_after(key, chain, writer)
        return needs_I

    def _right_after(self, key: str, chain: str, writer: str) -> np.ndarray:
        edit = ChainEdit(chain, "" if chain == NO_CHAIN else writer)
        return self._after.get(edit, {}).get(key, self._unknown_I)

    def _closed(self, writer: str) -> np.ndarray:
        """Return 1 for each prompt whose chain by `writer` closed by itself, else 0, (I,); follow-ups have these."""
        return self._closed_runs[writer][0] if writer in self._closed_runs else self._unknown_I

    def _estimate(self, values_SI: np.ndarray, kind: ValueKind) -> Estimate:
        n_draws = values_SI.size // len(self._at)
        means_PX = means_of_units(values_SI.reshape(-1, 1), [*self._at] * n_draws, self._unit_I * n_draws)
        return estimate_columns(means_PX, [kind])[0]

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        whole = [row for row in rows if row["steps"] is None]
        of_answers = {row["configuration"]: row for row in whole if row["accuracy_beside_normal_closed_n"]}
        compared = [row for row in whole if row["beside_normal_n"] or row["beside_control_n"]]
        followed = {key for values in self._after.values() for key in values}
        left_out = sorted(followed - {each["key"] for each in self._configurations})
        return [
            necessity_table(whole),
            *([differences_table(compared)] if compared else []),
            *([answers_table([*of_answers.values()])] if of_answers else []),
            *([f"not in {self._sweep.name}, so left out: {', '.join(left_out)}"] if left_out else []),
            *filter(None, [cut_warning(self._cut_shares)]),
        ]


def _of_originals(runs: pa.Table, ids: Sequence[str], before: str) -> pa.Table:
    """Return the runs with the ids of their original prompts, and with the columns of `losses`, a unit per prompt.

    Seeds of other sweeps are further draws, whose names begin with `before`.
    """
    draws = [f"{before}{seed}" for seed in runs["seed"].to_pylist()]
    table = runs.select(["configuration", "status", "correct"])
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return pa.table({**columns, "prompt_id": ids, "unit": ids, "draw": draws})


def _twice(half: Estimate) -> Estimate:
    """Double an estimate: a difference of differences in [−2, 2] gets the interval of its half, which is in [−1, 1]."""
    return replace(half, mean=2 * half.mean, low=2 * half.low, high=2 * half.high)


def necessity_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return the table of necessity: a section for each edit of the chains, a line for each configuration."""
    table = _table(OF_NECESSITY, "closed", "right", "with", "with\xad\nout", "n", "neces\xad\nsity", INTERVAL)
    table.add("number", "n\nclosed", "neces\xad\nsity", INTERVAL)
    for row in rows:
        shares = [percent(row[name]) for name in ("closed", "accuracy", "accuracy_with", "accuracy_without")]
        _add(table, row, *shares, *_points(row, "necessity"), *_points(row, "necessity_closed"))
    return table


def differences_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return the table of differences in necessity, a line for each edit and configuration."""
    table = _table(OF_DIFFERENCES, "n", "less\nnormal", INTERVAL, "n\nclosed", "less\nnormal", INTERVAL)
    table.add("number", "n", "less\ncontrol", INTERVAL)
    for row in rows:
        names = ("beside_normal", "beside_normal_closed", "beside_control")
        _add(table, row, *(cell for name in names for cell in _points(row, name)))
    return table


def answers_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return the table of the sweep's own answers after chains that closed, a line for each configuration."""
    table = ResultTable(OF_ANSWERS)
    table.add("key", "setting")
    table.add("number", "n", "less\nnormal", INTERVAL)
    for row in rows:
        table.add_row(row["configuration"], *_points(row, "accuracy_beside_normal_closed"))
    return table


def _table(caption: str, *numbers: str) -> ResultTable:
    table = ResultTable(caption)
    table.add("key", "setting")
    table.add("name", "chain")
    table.add("key", "of")
    table.add("number", *numbers)
    return table


def _add(table: ResultTable, row: Mapping[str, Any], *cells: str) -> None:
    table.add_in(row["chain"], row["configuration"], row["chain"], row["chain_of"], *cells)


def _points(row: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    """Return the number of prompts, a difference in points, and its interval."""
    ends = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    mean, low, high = (None if end is None else 100 * end for end in ends)
    return f"{row[f'{name}_n']:.0f}", format_number(mean, "+.1f"), interval(low, high, "+.1f")
