"""The overview's section "Which setting": certified settings, their cost, and their loss on held-out prompts."""

from typing import Any, Final

import pandas as pd

from eexit.output.text import is_known, pluralize, short_percent
from reports.shared.charts import Columns
from reports.shared.figures import table
from reports.shared.measures import CORRECT, DIFFERENCE, DISAGREEMENT, LAYERS_SKIPPED, SKIPPED, THEORETICAL
from reports.shared.number_format import points
from reports.shared.quality import QualityTable, held_against_normal, kept_of, not_held

OF_RIGHT: Final = "loss_of_right"  # of selections by lost answers
OF_PROMPTS: Final = "loss_of_prompts"  # where groups of unequal size count once each
CERTIFIED: Final[Columns] = (
    ("promise", "At most", "text"),
    ("configuration", "Certified, cheapest", "text"),
    ("cost", "Costs", "share"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    ("loss", "Loss, of all prompts or groups", "share"),
    (OF_PROMPTS, "Of single prompts of groups", "share"),
    (OF_RIGHT, "Of those full depth has right", "share"),
    ("held_out", "Held out", "text"),
)
HOW_CERTIFIED: Final = (
    "Each bound has its own certificate: the cheapest certified setting, and its loss on test prompts."
)
MOST_ROWS: Final = 6


def settings_section(quality: QualityTable) -> dict[str, Any] | None:
    """Return a sorted table with a sentence on how it is read; None if nothing exits early."""
    if quality.settings.empty:
        return None
    if len(quality.choices):
        rows = _certified(quality)
        return {"about": HOW_CERTIFIED, "table": table(rows, CERTIFIED)}
    changed = f"{CORRECT}{DIFFERENCE}"
    if held := held_against_normal(quality, changed):
        kept = [row["configuration"] for row in kept_of(held, changed, quality.margin)]
        shown = pd.DataFrame(held).sort_values(f"{changed}_low", ascending=False).head(MOST_ROWS)
        shown = shown.assign(kept=["yes" if key in kept else "not shown" for key in shown["configuration"]])
        about = (
            "Nothing is certified; from the best on, by the interval's end: whether a setting is at most "
            f"{points(quality.margin)} worse than full depth, paired over prompts."
        )
        beside: Columns = (
            ("configuration", "Configuration", "text"),
            (changed, "Right answers, beside full depth", "points"),
            ("kept", f"At most {points(quality.margin)} worse", "text"),
        )
        return {"about": about, "table": table(shown, (*beside, *_saved(quality)))}
    rows = quality.settings[~quality.settings["oracle"]]
    if rows.empty or rows[DISAGREEMENT].isna().all():
        return None
    near: Columns = (("configuration", "Configuration", "text"), (DISAGREEMENT, "Disagreement", "share"))
    return {
        "about": f"{not_held(quality)} Nothing is certified; the settings that differ least from full depth.",
        "table": table(rows.sort_values(DISAGREEMENT).head(MOST_ROWS), (*near, *_saved(quality))),
    }


def _saved(quality: QualityTable) -> Columns:
    """Return the columns of savings: time, then multiply-adds, then layers; the theoretical saving is left out."""
    costs = [cost for cost in reversed(quality.costs) if cost.column not in (SKIPPED, THEORETICAL)]
    return (*((cost.column, f"Saved: {cost.label}", "share") for cost in costs), (SKIPPED, LAYERS_SKIPPED, "share"))


def _certified(quality: QualityTable) -> pd.DataFrame:
    """Return one row per selection, by risk and then from the strictest bound."""
    skipped = quality.rows.set_index("configuration")[SKIPPED]
    rows = []
    for row in quality.choices.sort_values(["risk", "max_risk", "cost_by"], kind="stable").to_dict("records"):
        max_risk, confidence = short_percent(row["max_risk"]), short_percent(row["confidence"])
        since = ", before the sweep grew" if row["grown"] else ""
        told: dict[str, Any] = {"promise": f"{row['risk']} ≤ {max_risk}, with {confidence}{since}"}
        key = row["configuration"]
        if isinstance(key, str):
            told |= {"configuration": key, "cost": row["cost"], SKIPPED: skipped.get(key), "loss": row["mean_loss"]}
            tested = next(each for each in row["tested"] if each["configuration"] == key)
            told |= {name: tested.get(name) for name in (OF_RIGHT, OF_PROMPTS)}
            told["held_out"] = _held_out(row)
        else:
            told["held_out"] = _none(row)
        rows.append(told)
    return pd.DataFrame(rows)


def _held_out(row: dict[Any, Any]) -> str:
    if not is_known(row["reporting_mean_loss"]):
        return "not checked"
    mean, upper = (short_percent(row[f"reporting_{name}"]) for name in ("mean_loss", "upper"))
    above = ": above the bound" if row["reporting_mean_loss"] > row["max_risk"] else ""
    return f"{mean}, at most {upper} (n = {row['reporting_n']:.0f}){above}"


def _none(row: dict[Any, Any]) -> str:
    """Return how many settings were tested in vain, and how many prompts would suffice."""
    needed = [setting.get("prompts_needed") for setting in row["tested"]]
    enough = min((n for n in needed if n is not None and is_known(n)), default=None)
    said = f"none of {pluralize(len(row['tested']), 'setting')}"
    return said + (f"; {enough:,.0f} prompts would do" if enough else "")
