"""Quality against cost: each configuration's accuracy, judges' scores, agreement and perplexity, and its cost.

Means are over prompts, seeds averaged first. Differences from `normal` are paired over prompts and seeds. Both have
intervals over prompts, as `reports.shared.paired` computes them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eexit.output.text import is_known, pluralize, short_percent
from eexit.plan.configuration import DRAFT, GATE_MARK, NORMAL, SET_MARK
from eexit.quality.estimates import ENDS, MIN_SAMPLES
from eexit.results.configuration_means import cut_warning, saved_share
from eexit.results.study_tables import CHOICES, REPLAYS
from eexit.studies.selection.alpha_spending import hash_of_runs
from reports.read.judgements import SCORE, Judge
from reports.read.sweep import Sweep
from reports.shared.measures import (
    CORRECT,
    CUT,
    DIFFERENCE,
    DISAGREEMENT,
    SKIPPED,
    SKIPPING,
    THEORETICAL,
    CostAxis,
    Measure,
    measures_of_quality,
)
from reports.shared.number_format import Row
from reports.shared.paired import GAINED, LOST, P_VALUE
from reports.shared.savings import SavingsTable


@dataclass(frozen=True)
class QualityTable:
    """One row per configuration except drafts, with the columns of `per_configuration` and `SavingsTable`.

    Further columns: `<column>_difference` from `normal` of accuracy and each judge's score; `correct` with GAINED, LOST
    and P_VALUE, the prompts that only this configuration or only `normal` has right, and McNemar's p; `judge_errors`,
    runs without a usable judgement; `chosen` and `certified`, the bounds for which the configuration was chosen or is
    certified. The best come first, and a control comes after its configuration.
    """

    rows: pd.DataFrame
    measures: tuple[Measure, ...]  # those known of any configuration that exits early
    costs: tuple[CostAxis, ...]
    judges: tuple[Judge, ...]
    # The latest selection for each bound, as in `eexit.results.study_tables.CHOICES`; `grown`: runs were added.
    choices: pd.DataFrame
    replayed: pd.DataFrame  # by `replayed_settings`
    margin: float  # `Sweep.margin`

    @property
    def settings(self) -> pd.DataFrame:
        """The configurations that exit early and are no controls, not even of configurations that the sweep lacks."""
        return self.rows[self.rows["rule"].notna() & self.rows["control_of"].isna()]

    @property
    def cut_warning(self) -> str:
        """The warning about texts that `max_new_tokens` ended, which count as wrong; or ""."""
        shares = dict(zip(self.rows["configuration"], self.rows[CUT], strict=True)) if CUT in self.rows else {}
        return cut_warning(shares) if shares else ""


def quality_of(
    sweep: Sweep, trade: pd.DataFrame, paired: pd.DataFrame, saves: SavingsTable | None
) -> QualityTable | None:
    """Return the quality of a sweep's configurations; None if there are none.

    `trade` is from `per_configuration`; `paired` has differences from `normal`, from `PairedRuns.differences`.
    """
    judges = sweep.judges
    if trade.empty:
        return None
    trade = saves.rows if saves else trade
    if not sweep.has_answers:
        trade = trade.assign(**{f"{CORRECT}{end}": np.nan for end in ENDS})
    question = ["risk", "max_risk", "confidence", "cost_by"]
    choices = sweep.rows_of(CHOICES).drop_duplicates(question, keep="last").reset_index(drop=True)
    runs = hash_of_runs(sweep.config, sweep.about["model"]) if len(choices) else ""
    choices = choices.assign(grown=choices["runs"].notna() & (choices["runs"] != runs))
    rows = _with_differences(trade, paired, [CORRECT, *(judge.column(SCORE) for judge in judges)])
    errors = {key: sum(judge.errors.get(key, 0) for judge in judges) for key in rows["configuration"]}
    rows = rows.assign(
        judge_errors=rows["configuration"].map(errors).replace(0, np.nan),
        chosen=rows["configuration"].map(chosen_words(choices, chosen=True)),
        certified=rows["configuration"].map(chosen_words(choices, chosen=False)),
    )
    exiting = rows[rows["rule"].notna()]
    known = measures_of_quality(judges, sweep.scores)
    measures = tuple(each for each in known if exiting[each.column].notna().any())
    skipped = [SKIPPING] if exiting[SKIPPED].notna().any() else []
    return QualityTable(
        _in_order(rows, measures),
        measures,
        (*skipped, *(saves.costs if saves else ())),
        judges,
        choices,
        replayed_settings(sweep.rows_of(REPLAYS)),
        sweep.margin,
    )


def _with_differences(trade: pd.DataFrame, paired: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the rows with the paired differences of these columns, and with the right answers gained and lost."""
    names = {f"{column}{end}": f"{column}{DIFFERENCE}{end}" for column in columns for end in ENDS}
    names |= {name: name for name in (f"{CORRECT}{end}" for end in (GAINED, LOST, P_VALUE)) if name in paired}
    beside = paired.reindex(columns=["configuration", *names]).rename(columns=names)
    return trade.merge(beside.astype(dict.fromkeys(names.values(), float)), on="configuration", how="left")


def _in_order(rows: pd.DataFrame, measures: tuple[Measure, ...]) -> pd.DataFrame:
    """Return `normal` first, then the rest by the first measure, best first. A control follows its configuration."""
    if not measures:
        return rows
    value = rows[measures[0].column] * (-1 if measures[0].higher_is_better else 1)
    of = rows["beneath"].fillna(rows["configuration"])
    sort_value = of.map(dict(zip(rows["configuration"], value, strict=True)))
    by = pd.DataFrame(
        {"normal": rows["configuration"] != NORMAL, "value": sort_value, "of": of, "control": rows["beneath"].notna()}
    )
    return rows.loc[by.sort_values(by.columns.tolist(), kind="stable").index].reset_index(drop=True)


_MARKS: Final = {"exit_set": SET_MARK, "gate": GATE_MARK}  # before exit set and gate, as in a setting's key
_READING: Final = {  # in which replays may differ: the words with a value, and without
    "readout": (", read through {}", ", read through unknown"),
    "screen": (", decided by screen {}", ", decided by the whole head"),
}


def replayed_settings(replays: pd.DataFrame) -> pd.DataFrame:
    """Return the replayed settings with the sweep's column names: the latest replay per configuration's texts.

    Columns: the configuration's; `text_of`; `replayed` (true); `curve`, the same for settings that differ only in the
    parameter; `n`; the estimates `layers_skipped` and `disagreement`; `kl` (nats); `theoretical`, the saving.
    """
    replays = replays[replays["mode"] != DRAFT]  # drafts have no exits
    latest = replays.drop_duplicates(["configuration", "text_of", *_READING], keep="last")
    found = pd.DataFrame(
        {
            **{name: latest[name] for name in ("configuration", "mode", "rule", "parameter", "text_of")},
            "family": latest["rule"].fillna(latest["mode"]),
            "curve": _curves(latest),
            "replayed": True,
            "n": latest["prompts"],
            "kl": latest["expected_kl"],
            "theoretical": saved_share(*(latest[of].to_numpy(dtype=float) for of in ("macs_required", "macs_full"))),
        }
    )
    for end, of in (("", ""), ("_low", "_high"), ("_high", "_low")):
        found[f"{SKIPPED}{end}"] = 1 - latest[f"mean_depth{of}"].astype(float)
        found[f"{DISAGREEMENT}{end}"] = latest[f"expected_disagreement{end}"].astype(float)
    return found.sort_values(["curve", "parameter"], kind="stable").reset_index(drop=True)


def _curves(replays: pd.DataFrame) -> list[str]:
    """Return what the settings of each curve share, in words: readout and screen only where replays differ in them."""
    differing = {name: words for name, words in _READING.items() if replays[name].nunique(dropna=False) > 1}
    return [
        "".join(
            [
                f"{row['mode']}/{_known(row['rule'])}",
                *(mark + row[name] for name, mark in _MARKS.items() if _known(row[name])),
                f" on texts of {row['text_of']}",
                *(words.format(row[of]) if _known(row[of]) else without for of, (words, without) in differing.items()),
            ]
        )
        for row in replays.to_dict("records")
    ]


def _known(text: object) -> str:
    return text if isinstance(text, str) else ""


def chosen_words(choices: pd.DataFrame, chosen: bool) -> dict[str, str]:
    """Return configuration → the bounds for which it was chosen or, if not `chosen`, for which it is certified."""
    found: dict[str, dict[str, None]] = {}
    for row in choices.to_dict("records"):
        certified = [setting["configuration"] for setting in row["tested"] if setting["certified"]]
        for key in [row["configuration"]] if chosen else certified:
            if isinstance(key, str):
                found.setdefault(key, {})[f"{row['risk']} ≤ {short_percent(row['max_risk'])}"] = None
    return {key: ", ".join(words) for key, words in found.items()}


def held_against_normal(quality: QualityTable, changed: str) -> list[Row]:
    """Return the online settings whose difference from `normal`, column `changed`, has an interval. Counts of settings
    that are as good as full depth refer to them.
    """
    rows = quality.settings[~quality.settings["oracle"]].to_dict("records")
    return [row for row in rows if is_known(row.get(f"{changed}_low"))]


def not_held(quality: QualityTable) -> str:
    """Return why no setting is compared with `normal` by right answers, in words."""
    if quality.rows[CORRECT].isna().all():
        return "No answer was checked, so that no setting can be compared with full depth."
    if row_of_normal(quality) is None:
        return "Answers were checked, but there are no runs of normal to compare with."
    if quality.settings["oracle"].all():
        return "Answers were checked, but no setting that a deployed model can follow was tried."
    return (
        f"Answers were checked, but fewer than {MIN_SAMPLES} prompts are too few to compare settings with full depth."
    )


def kept_of(rows: list[Row], changed: str, margin: float) -> list[Row]:
    """Return the settings that are certainly at most `margin` below `normal`, by the lower end of column `changed`."""
    return [row for row in rows if is_known(row[f"{changed}_low"]) and row[f"{changed}_low"] >= -margin]


def row_of_normal(quality: QualityTable) -> Row | None:
    """Return the row of `normal`, with the n of its right answers as `n`; None if they are not known."""
    rows = quality.rows[(quality.rows["configuration"] == NORMAL) & quality.rows[CORRECT].notna()].to_dict("records")
    return rows[0] | {"n": rows[0][f"{CORRECT}_n"]} if rows else None


def cost_of(quality: QualityTable, rows: list[Row]) -> CostAxis:
    """Return the sense of saving to state for these settings: time if known, else the last known but theoretical."""
    timed = [cost for cost in quality.costs if cost.measured]
    others = [cost for cost in quality.costs if not cost.measured and cost.column != THEORETICAL]
    known = (cost for cost in [*timed, *reversed(others)] if any(is_known(row[cost.column]) for row in rows))
    return next(known, SKIPPING)


def how_many_keep(n_kept: int, n_held: int, margin: str) -> str:
    """Return in words how many online settings are worse than full depth by at most the margin."""
    settings = pluralize(n_held, "setting")
    if not n_kept:
        return f"Of the {settings} tried that a deployed model can follow, none is shown to be at most {margin} worse."
    return (
        f"At most {margin} worse, by the interval's end: {n_kept} of the {settings} tried that a deployed model can "
        "follow."
    )
