"""What came of drafts: how many were accepted, and how fast they are, expected and measured.

Acceptance, tokens per pass and the expected speed-up are ratios of sums over prompts; acceptance per token is a mean.
Several seeds of a prompt are averaged first. All have intervals over prompts. Measured speed-ups are medians
over rounds, as `eexit.studies.timing.speedups` computes them, with intervals over rounds.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eexit.plan.configuration import AUTO, DRAFT, GENERATE, Configuration, Draft, Generate, Normal
from eexit.quality.estimates import NOTHING, ValueKind
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup
from reports.frames.runs import ratios
from reports.read.sweep import Sweep
from reports.read.timings import Measured, latest_speedups


@dataclass(frozen=True)
class Drafts:
    """One row per draft, then one each of `normal`, `generate` and `generate/LAYER` if they were timed beside drafts.

    Columns: the configuration's; `pair`, which is LAYER:N; `n` prompts and `n_failed` runs; the estimates `acceptance`,
    `acceptance_per_token`, `tokens_per_pass` and `expected`, the expected speed-up; and for each `Measured`, `speedup`
    over `normal` and `over_generate`, that over transformers' own, both with their interval and the number of rounds,
    `expected_timed`, the expected speed-up of what was timed, `tokens_per_s`, and whether it is the `fastest` draft.
    `rows` is sorted by layer and then by N, with `auto` last.
    """

    rows: pd.DataFrame
    measured: tuple[Measured, ...]  # where drafts were timed
    n_texts: int  # runs of drafts that can be compared with the normal run of their prompt and seed
    n_other_texts: int  # those of them whose text is another one

    @property
    def drafts(self) -> pd.DataFrame:
        """The rows of drafts."""
        # Beside rows without runs, pandas holds whole numbers as fractions.
        return self.rows[self.rows["mode"] == DRAFT].astype(dict.fromkeys(("draft_layer", "n", "n_failed"), int))

    @property
    def layers(self) -> list[int]:
        return sorted(self.drafts["draft_layer"].unique().tolist())

    @property
    def lengths(self) -> list[str]:
        return sorted(self.drafts["draft_length"].unique(), key=_in_order)


def drafted(sweep: Sweep) -> Drafts | None:
    """What is known of a sweep's drafts; None if it has none."""
    unsorted = [configuration for configuration in sweep.configurations if isinstance(configuration, Draft)]
    configurations = sorted(unsorted, key=lambda draft: (draft.layer, _in_order(draft.length)))
    if not configurations:
        return None
    rows = _with_counts([_naming(configuration.columns) for configuration in configurations], sweep)
    keys = [configuration.key for configuration in configurations]
    over_generate = {where.label: found for where, found in latest_speedups(sweep.rows_of(TIMINGS), GENERATE)}
    measured = []
    for where, found in latest_speedups(sweep.rows_of(TIMINGS)):
        if not found.keys() & set(keys):
            continue
        measured.append(where)
        beside = {key: _naming(columns) for key, columns in _plain(found).items()}
        rows += [row for key, row in beside.items() if key not in {row["configuration"] for row in rows}]
        of_generate = over_generate.get(where.label, {})
        fastest = max((key for key in keys if key in found), key=lambda key: found[key].speedup)
        for row in rows:
            key = row["configuration"]
            if key in found:
                row |= _numbers(found[key], of_generate.get(key), where) | {where.column("fastest"): key == fastest}
    runs = sweep.done[sweep.done["configuration"].isin(keys)]
    known = runs["equal_share"].astype(float).dropna()
    return Drafts(pd.DataFrame(rows), tuple(measured), len(known), int((known < 1).sum()))


def _naming(columns: dict[str, Any]) -> dict[str, Any]:
    layer, length = columns["draft_layer"], columns["draft_length"]
    names = ("configuration", "mode", "draft_layer", "draft_length")
    pair = None if length is None else f"{layer}:{length}"
    return {**{name: columns[name] for name in names}, "pair": pair}


def _plain(found: dict[str, Speedup]) -> dict[str, dict[str, Any]]:
    """`normal` and what was timed of transformers, with the columns that identify them."""
    layers = [int(key.removeprefix(f"{GENERATE}/")) for key in found if key.startswith(f"{GENERATE}/")]
    known: list[Configuration | Generate] = [Normal(), Generate(), *map(Generate, sorted(layers))]
    return {each.key: each.columns for each in known if each.key in found}


def _in_order(length: str) -> float:
    return math.inf if length == AUTO else int(length)


def _with_counts(rows: list[dict[str, Any]], sweep: Sweep) -> list[dict[str, Any]]:
    """The rows with what their runs counted."""
    names = ["drafted", "accepted", "passes", "tokens_per_pass", "expected_speedup", "acceptance_per_token"]
    runs = sweep.done[["configuration", "unit", *names]].astype(dict.fromkeys(names, float))
    runs["decided"] = runs["passes"] * runs["tokens_per_pass"]
    runs["serial"] = runs["decided"] / runs["expected_speedup"]  # in tokens at full depth
    runs["drafted"] = runs["drafted"].where(runs["drafted"] > 0)
    runs["one"] = 1.0
    keys = [row["configuration"] for row in rows]
    estimates = {
        name: ratios(runs, above, below, keys, ValueKind.SHARE if "accept" in name else ValueKind.NUMBER)
        for name, above, below in (
            ("acceptance", "accepted", "drafted"),
            ("tokens_per_pass", "decided", "passes"),
            ("expected", "decided", "serial"),
            ("acceptance_per_token", "acceptance_per_token", "one"),
        )
    }
    failed = sweep.failed["configuration"].value_counts()
    prompts = sweep.done.groupby("configuration")["prompt_id"].nunique()
    return [
        row
        | {"n": int(prompts.get(row["configuration"], 0)), "n_failed": int(failed.get(row["configuration"], 0))}
        | {k: v for name, of_keys in estimates.items() for k, v in of_keys[index].columns(name).items()}
        for index, row in enumerate(rows)
    ]


def _numbers(speedup: Speedup, over_generate: Speedup | None, where: Measured) -> dict[str, Any]:
    return {
        **speedup.ratio.columns(where.column("speedup")),
        **(over_generate.ratio if over_generate else NOTHING).columns(where.column("over_generate")),
        where.column("expected_timed"): np.nan if speedup.expected is None else speedup.expected,
        where.column("tokens_per_s"): speedup.tokens_per_second,
    }
