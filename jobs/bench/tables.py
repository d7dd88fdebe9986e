"""Print the tables of FINDINGS.md again, from the raw results of the study that lie beside it.

    python jobs/bench tables

Prompts are counted, not runs, and 95 % intervals are over prompts; those of times are over calls. Parquet and JSON are
read as they are, without the readers of result folders, so that the study outlives their format. What the code of that
commit made of several tables at once is not here: intervals of the attribution, what steps allow, costs per right
answer.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.stats import binom

from cluster.console.parser import Parser
from eexit.plan.splits import in_test_split, sampling_units, sort_of
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_over_calls, estimate_ratios

SAMPLE: Final = Path(__file__).parents[2] / "reports" / "sample"
STUDY: Final = SAMPLE / "study"
LATEST, FIRST = "mapped_residual/confidence/0.9@23+gate0.3", "frozen_residual/confidence/0.9@25+gate0.3"
ASKED: Final = {"again": LATEST, "run": FIRST, "longer/run": FIRST}  # sweep, without its dtype → the announced setting
DTYPES: Final = ("float32", "bfloat16")
PILOT: Final = ("pilot", "mapped", "tried", "late", "tried-mapped")
EXITS: Final = "instead/exits"
CUTS: Final = tuple(f"instead/cut-{n}" for n in (1, 2, 3, 4, 6, 8))  # with the prompts and full depth of `EXITS`
AT_MOST: Final = 0.02  # share of prompts that full depth gets right and the setting gets wrong


@cache
def manifest(name: str) -> dict[str, Any]:
    return dict(json.loads((STUDY / name / "sweep.json").read_text("utf-8")))


@cache
def runs_of(name: str) -> pd.DataFrame:
    """Return a row per run, with its group of prompts (`unit`)."""
    runs = pd.read_parquet(STUDY / name / "generations")
    if name in CUTS:
        full = runs_of(EXITS)
        runs = pd.concat([full[(full.configuration == "normal") & full.prompt_id.isin(runs.prompt_id)], runs])
    unit = runs.prompt_id.map(sampling_units(manifest(EXITS if name in CUTS else name)["config"]["prompts"]))
    return runs.assign(unit=unit, n_decided=(runs.n_tokens - 1).clip(lower=0)).reset_index(drop=True)


def settings(name: str) -> list[str]:
    return [each["key"] for each in manifest(name)["configurations"] if each["key"] != "normal"]


def by_prompt(name: str, key: str, column: str) -> pd.Series:
    return runs_of(name).query("configuration == @key").groupby("unit")[column].mean().astype(float)


def gained(name: str, key: str) -> pd.Series:
    """Return, by group, the accuracy of a setting minus that of `normal`."""
    return by_prompt(name, key, "correct") - by_prompt(name, "normal", "correct")


def mean_of(values: pd.Series, kind: ValueKind = ValueKind.SHARE) -> Estimate:
    return estimate_columns(values.to_numpy(float)[:, None], [kind])[0]


def lost(name: str, key: str, of_right: bool = False, reporting: bool | None = None) -> Estimate:
    """Return the share of groups in which a setting has fewer right answers than `normal`.

    With `of_right`, it is the share of groups in which `normal` has a right answer. `reporting`: True for the test
    split, False for the others, None for both.
    """
    difference = gained(name, key)
    if of_right:
        difference = difference[by_prompt(name, "normal", "correct") > 0]
    if reporting is not None:
        difference = difference[difference.index.map(in_test_split) == reporting]
    return mean_of(difference < 0)


def ratio(name: str, key: str, above: Callable[[pd.DataFrame], Any], below: str) -> Estimate:
    """Return the ratio Σ above / Σ below over groups, with its interval, for a configuration's runs."""
    runs = runs_of(name).query("configuration == @key and n_decided > 0").assign(above=above)
    sums = runs.dropna(subset=["above", below]).groupby("unit")[["above", below]].sum().to_numpy(float)
    return estimate_ratios(sums[:, :1], sums[:, 1:])[0]


def saved(name: str, key: str, cost: str = "cost_run") -> Estimate:
    """Return the share of full-depth multiply-adds that was not run; with `cost_needed`, that was not needed."""
    return ratio(name, key, lambda runs: runs.cost_full - runs[cost].astype(float), "cost_full")


def saved_by_exits(name: str, key: str) -> Estimate:
    """Return the share that a configuration's exits save if deciding and state propagation were free."""
    at = {int(each.rpartition("/")[2]): saved("look", each, "cost_needed").mean for each in settings("look")[:-1]}

    def share(counts: Sequence[tuple[int, int]]) -> float:
        return sum(n * at.get(layer, 0.0) for layer, n in counts) / sum(n for _, n in counts)

    return ratio(name, key, lambda runs: runs.cost_full * runs.exit_layer_counts.map(share), "cost_full")


def times(name: str, key: str, batch: int, beside: str = "normal") -> list[np.ndarray]:
    """Return, by call, a configuration's seconds per timed token as a multiple of another's in the same round, (R,)."""
    rows = pd.read_parquet(STUDY / name / "timings").assign(per_token=lambda rows: rows.seconds / rows.tokens)
    of_round = rows[rows.batch == batch].pivot(index=["started", "round"], columns="configuration", values="per_token")
    return [each.to_numpy() for _, each in (of_round[key] / of_round[beside]).dropna().groupby("started")]


def tested() -> Iterator[dict[str, Any]]:
    """Yield the planned tests of the study, over all prompts and over those that full depth gets right."""
    for what, dtype, of_right in product(("again", "run"), DTYPES, (False, True)):
        found = lost(f"{what}-{dtype}", ASKED[what], of_right, reporting=False)
        p_value = round(binom.cdf(round(found.mean * found.n), found.n, AT_MOST), 4)
        row = {"of": "right" if of_right else "all", "prompts": found.n, "lost": found, "p": p_value}
        yield {"sweep": f"{what}-{dtype}", **row, "reporting": lost(f"{what}-{dtype}", ASKED[what], of_right, True)}


def beside_normal(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name, key in [(each, key) for each in names for key in settings(each)]:
        difference = gained(name, key)
        yield {
            "sweep": name, "setting": key, "prompts": len(difference),
            "normal right": mean_of(by_prompt(name, "normal", "correct")),
            "setting right": mean_of(by_prompt(name, key, "correct")),
            "difference": mean_of(difference, ValueKind.DIFFERENCE), "gained, lost": gained_lost(difference),
            "lost of all": lost(name, key), "lost of right": lost(name, key, of_right=True),
            "disagreement": ratio(name, key, lambda runs: runs.disagreement * runs.n_decided, "n_decided"),
            "skipped": ratio(name, key, lambda runs: (1 - runs.mean_depth) * runs.n_decided, "n_decided"),
            "saved": saved(name, key),
        }  # fmt: skip


def gained_lost(difference: pd.Series) -> str:
    return f"{(difference > 0).sum()}, {(difference < 0).sum()}"


def remaining_savings() -> Iterator[dict[str, Any]]:
    """Yield the savings that remain under each restriction, in float32."""
    places = {key: name for name in PILOT for key in settings(name) if not key.startswith("unfrozen")}
    within = {key: saved_by_exits(name, key) for key, name in places.items() if lost(name, key).mean <= AT_MOST}
    yield {"restriction": "", "left": saved_by_exits("pilot", "unfrozen/agree"), "by": "unfrozen/agree"}
    for restriction, is_oracle in (("state", True), ("knowing", False)):
        best = max((key for key in within if ("/agree" in key) == is_oracle), key=lambda key: within[key].mean)
        yield {"restriction": restriction, "left": within[best], "by": best}
    yield {"restriction": "proof", "left": saved_by_exits("again-float32", LATEST), "by": LATEST}
    yield {"restriction": "deciding", "left": saved("again-float32", LATEST), "by": LATEST}


def timed(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each configuration's time as a multiple of another's, over all calls and in each."""
    for name, beside in product(names, ("normal", "generate")):
        rows = pd.read_parquet(STUDY / name / "timings")
        for batch, key in sorted(set(zip(rows.batch, rows.configuration, strict=True))):
            calls = times(name, key, batch, beside)
            said = {"over calls": estimate_over_calls(calls), "each": [round(float(np.median(of)), 2) for of in calls]}
            yield {"sweep": name, "rows": batch, "alternative": key, "beside": beside, **said}


def of_card(name: str, table: str, rows: str, columns: Sequence[str], values: str) -> pd.DataFrame:
    card = json.loads((STUDY / "cards" / name / "card.json").read_text("utf-8"))
    found = pd.DataFrame(card[table]).map(lambda value: str(value) if isinstance(value, list) else value)
    return found.pivot_table(values, rows, columns, dropna=False, sort=False).dropna(axis=1, how="all").round(3)


def tables() -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each table with its heading in FINDINGS.md."""
    yield "The announced test", pd.DataFrame(tested())
    yield "Of all prompts", pd.DataFrame(beside_normal([f"{what}-{dtype}" for what, dtype in product(ASKED, DTYPES)]))
    kind = runs_of("again-float32").drop_duplicates("unit").set_index("unit").prompt_id.map(sort_of)
    by_kind = {dtype: gained(f"again-{dtype}", LATEST).groupby(kind).agg(gained_lost) for dtype in DTYPES}
    yield "By kind of prompt: gained, lost", pd.DataFrame(by_kind)
    yield "Where an oracle's savings go", pd.DataFrame(remaining_savings())
    yield "Three states, the same prompts", pd.DataFrame(beside_normal(PILOT))
    yield "What the maps are worth", of_card("state", "state_exits", "exits", ["form", "round"], "final_disagreement")
    rows = pd.read_parquet(STUDY / "look" / "timings")
    rows = rows[(rows.rule == "fixed") | (rows.configuration == "normal")]
    steps = rows.assign(layer=rows.parameter.fillna(29), ms=1e3 * rows.seconds * rows.batch / rows.tokens)
    yield "Time: a step in milliseconds", steps.pivot_table("ms", "batch", "layer", aggfunc="median").round(1)
    yield "Time and drafts", pd.DataFrame(timed(["again-float32", "run-float32", "instead/copy", "instead/plain"]))
    yield "Fewer layers for all tokens", pd.DataFrame(beside_normal([EXITS, *CUTS]))
    yield "Learned exits", of_card("linear", "held_out", "readout", ["layer"], "agreement")
    yield "What teaching the model changes", of_card("student", "learning", "tokens", ["layer"], "agreement")
    shares = ["accuracy", "accuracy_without", "necessity", "necessity_low", "necessity_high", "beside_control"]
    chains = [pd.read_parquet(STUDY / "reasoning" / name / "chains") for name in ("steps", "fixed", "small")]
    chains = [each[each.steps.isna()].set_index(["configuration", "chain"])[shares] for each in chains]
    yield "What limited depth does to reasoning", pd.concat(chains, keys=["steps", "fixed", "small"]).round(3)
    yield "How well answers are graded", pd.read_csv(SAMPLE / "grading.csv", index_col="sort")


def format_value(value: Any) -> str:
    return f"{value.mean:z.3f} ({value.low:z.3f} to {value.high:z.3f})" if isinstance(value, Estimate) else str(value)


def main(arguments: Sequence[str]) -> int:
    """Print all tables, and return 0."""
    Parser(__doc__).read(arguments)
    for title, table in tables():
        print(f"\n## {title}\n\n{table.map(format_value).to_string()}")
    return 0
