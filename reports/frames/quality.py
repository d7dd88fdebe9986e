"""Quality against cost: accuracy, what judges say, agreement and perplexity of each configuration, and what it costs.

Means are over prompts, seeds averaged first, and differences from `normal` are paired over prompts and seeds; both have
bootstrap intervals over prompts, as `reports.frames.runs` computes them.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import NORMAL
from eexit.quality.rubric import ASPECTS
from eexit.results.study_tables import CHOICES, REPLAYS, SCORES
from reports.frames.choices import chosen_words, latest_choices
from reports.frames.runs import CORRECT, LAYERS_SKIPPED
from reports.frames.savings import REALISED, RUN, Savings
from reports.read.judgements import PREFERRED, SCORE, Judge
from reports.read.sweep import Sweep
from reports.read.timings import Measured

ENDS: Final = ("", "_low", "_high", "_n")
DIFFERENCE: Final = "_difference"
SKIPPED: Final = "layers_skipped"
DISAGREEMENT: Final = "disagreement"


@dataclass(frozen=True)
class Measure:
    """A measure of quality: the column that has it, what the reader chooses it by, and how it is read."""

    column: str
    label: str
    title: str  # of its axis
    is_share: bool
    higher_is_better: bool
    meaning: str  # a sentence
    even: float | None = None  # the value that means as good as normal, where that is not normal's own value


@dataclass(frozen=True)
class CostAxis:
    """What a configuration saves, in one of the senses of `savings`, as a fraction of full depth."""

    column: str
    label: str
    title: str
    measured: Measured | None = None


@dataclass(frozen=True)
class Quality:
    """One row per configuration, drafts left out: those of `frames.trade_off` with its columns.

    Further columns: the savings `run` and `realised_<number>` with their intervals; for accuracy and each judge's
    score, `<column>_difference`, that to `normal`; `<saving>_control`, the saving of the configuration's control;
    `judge_errors`, the runs that a judge gave no usable answer for; `chosen`, what it was chosen for, and `certified`,
    what for it is certified. The best come first, and a control comes after its configuration.
    """

    rows: pd.DataFrame
    measures: tuple[Measure, ...]  # those known of any configuration that exits early
    costs: tuple[CostAxis, ...]
    judges: tuple[Judge, ...]
    choices: pd.DataFrame  # the latest answer to each question, as in `eexit.results.study_tables.CHOICES`
    replayed: pd.DataFrame  # as `replayed_settings` gives them
    n_seeds: int  # the most that any configuration has

    @property
    def settings(self) -> pd.DataFrame:
        """The configurations that exit early and are no controls, not even of what the sweep lacks."""
        return self.rows[self.rows["rule"].notna() & self.rows["control_of"].isna()]


def quality(sweep: Sweep, trade: pd.DataFrame, paired: pd.DataFrame, saves: Savings | None) -> Quality | None:
    """None for a sweep without answers, judgements, replays, scores of the harness and choices.

    `trade` and `paired` are the frames of `frames.trade_off` and, beside `normal`, of `frames.paired_differences`.
    """
    judges = sweep.judges
    is_studied = any(len(sweep.rows_of(table)) for table in (REPLAYS, SCORES, CHOICES))
    if trade.empty or not (sweep.has_answers or judges or is_studied):
        return None
    if not sweep.has_answers:
        trade = trade.assign(**{f"{CORRECT}{end}": np.nan for end in ENDS})
    choices = latest_choices(sweep.rows_of(CHOICES))
    rows = _with_differences(trade, paired, [CORRECT, *(judge.column(SCORE) for judge in judges)])
    rows, costs = _with_costs(rows, saves)
    errors = {key: sum(judge.errors.get(key, 0) for judge in judges) for key in rows["configuration"]}
    rows = rows.assign(
        judge_errors=rows["configuration"].map(errors).replace(0, np.nan),
        chosen=rows["configuration"].map(chosen_words(choices, chosen=True)),
        certified=rows["configuration"].map(chosen_words(choices, chosen=False)),
    )
    exiting = rows[rows["rule"].notna()]
    measures = tuple(each for each in _measures(judges) if len(exiting) and exiting[each.column].notna().any())
    return Quality(
        _in_order(rows, measures),
        measures,
        tuple(each for each in costs if len(exiting) and exiting[each.column].notna().any()),
        judges,
        choices,
        replayed_settings(sweep.rows_of(REPLAYS)),
        int(rows["n_seeds"].max()),
    )


def _measures(judges: tuple[Judge, ...]) -> list[Measure]:
    found = [
        Measure(
            CORRECT, "Accuracy", "Accuracy (share of prompts with an answer)", True, True,
            "Accuracy: the share of runs whose answer is right, of those whose prompt says what is right.",
        )
    ]  # fmt: skip
    for judge in judges:
        by = f"by {judge.name}" if len(judges) > 1 else "by the judge"
        found.append(
            Measure(
                judge.column(SCORE), f"Score {by}", f"Score by {judge.name} (1 to 5)", False, True,
                f"Score: the mean of {', '.join(map(_spaced, ASPECTS))}, 1 to 5 each, as {judge.name} judges them.",
            )
        )  # fmt: skip
        found.append(
            Measure(
                judge.column(PREFERRED), f"Win rate {by}", f"Win rate over normal by {judge.name}", True, True,
                f"Win rate: how often {judge.name} prefers the text to that of normal, without knowing which is which; "
                "a tie is half a win.", even=0.5,
            )
        )  # fmt: skip
    return [
        *found,
        Measure(
            "lcs_share", "Agreement with normal", "Agreement with normal (common subsequence)", True, True,
            "Agreement: the share of a longest common subsequence of the text and that of normal. It measures change, "
            "not harm.",
        ),
        Measure(
            "perplexity", "Perplexity", "Perplexity under full depth", False, False,
            "A low perplexity is no proof of quality: a text that repeats itself in a loop is fluent to the model.",
        ),
        Measure(
            DISAGREEMENT, "Disagreement", "Disagreement (share of decided tokens)", True, False,
            "Disagreement: the share of decided tokens that are not full depth's likeliest, given the same text.",
        ),
    ]  # fmt: skip


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _with_differences(trade: pd.DataFrame, paired: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    beside = paired.set_index("configuration") if len(paired) else pd.DataFrame()
    return trade.assign(
        **{
            f"{column}{DIFFERENCE}{end}": trade["configuration"].map(beside[f"{column}{end}"]).astype(float)
            if f"{column}{end}" in beside
            else float("nan")
            for column in columns
            for end in ENDS
        }
    )


def _with_costs(rows: pd.DataFrame, saves: Savings | None) -> tuple[pd.DataFrame, list[CostAxis]]:
    """The rows with what each saves, and what the control of each saves; and in which senses that is known."""
    costs = [CostAxis(SKIPPED, "layers skipped", LAYERS_SKIPPED)]
    if saves is not None:
        costs.append(CostAxis(RUN, "multiply-adds, run", "Multiply-adds saved, of what was run"))
        for each in saves.measured:
            title = f"Time saved, realised at {each.label}"
            costs.append(CostAxis(each.column(REALISED), f"time, realised at {each.label}", title, each))
        known = saves.rows.set_index("configuration")
        names = [f"{cost.column}{end}" for cost in costs[1:] for end in ENDS]
        rows = rows.assign(**{name: rows["configuration"].map(known[name]).astype(float) for name in names})
    controls = rows[rows["beneath"].notna()].drop_duplicates("beneath").set_index("beneath")
    beside = {f"{cost.column}_control": rows["configuration"].map(controls[cost.column]) for cost in costs}
    return rows.assign(**{name: values.astype(float) for name, values in beside.items()}), costs


def _in_order(rows: pd.DataFrame, measures: tuple[Measure, ...]) -> pd.DataFrame:
    """`normal` first, then by the first measure from the best on; a control comes after what it is the control of."""
    if not measures:
        return rows
    value = rows[measures[0].column] * (-1 if measures[0].higher_is_better else 1)
    of = rows["beneath"].fillna(rows["configuration"])
    sort_value = of.map(dict(zip(rows["configuration"], value, strict=True)))
    by = pd.DataFrame(
        {"normal": rows["configuration"] != NORMAL, "value": sort_value, "of": of, "control": rows["beneath"].notna()}
    )
    return rows.loc[by.sort_values(by.columns.tolist(), kind="stable").index].reset_index(drop=True)


def replayed_settings(replays: pd.DataFrame) -> pd.DataFrame:
    """The settings that were replayed, the latest of each on each configuration's texts, in the words of the sweep.

    Columns: the configuration's; `text_of`, `replayed` (true), `curve`, the same for settings that differ in the
    parameter alone, `n`, the estimates `layers_skipped` and `disagreement`, `kl` (nats), and `theoretical`, the saving.
    """
    latest = replays.drop_duplicates(["configuration", "text_of"], keep="last")
    found = pd.DataFrame(
        {
            **{name: latest[name] for name in ("configuration", "mode", "rule", "parameter", "text_of")},
            "family": latest["rule"].fillna(latest["mode"]),
            "curve": latest["mode"] + "/" + latest["rule"].fillna("") + " on texts of " + latest["text_of"],
            "replayed": True,
            "n": latest["prompts"],
            "kl": latest["expected_kl"],
            "theoretical": 1 - latest["cost_needed"].astype(float) / latest["cost_full"].astype(float),
        }
    )
    for end, of in (("", ""), ("_low", "_high"), ("_high", "_low")):
        found[f"{SKIPPED}{end}"] = 1 - latest[f"mean_depth{of}"].astype(float)
        found[f"{DISAGREEMENT}{end}"] = latest[f"expected_disagreement{end}"].astype(float)
    return found.sort_values(["curve", "parameter"], kind="stable").reset_index(drop=True)


def of_series(rows: pd.DataFrame) -> dict[str, list[dict[Any, Any]]]:
    """The rows of each mode and rule."""
    return {str(name): of_name.to_dict("records") for name, of_name in rows.groupby("series", sort=False)}
