"""Recompute the four cells of an assessment from its Parquet files, and compare them with its verdict.json.

    python recompute_cells.py results/assess

Only numpy and pandas; nothing of eexit. Point values: shares of multiply-adds saved, and shares lost of all prompts.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

OLD = {"macs_full": "macs_full", "macs_to_exit": "macs_to_exit"}  # earlier names of columns


def runs_of(folder: Path) -> pd.DataFrame:
    """All runs, each once; a run without an error counts rather than one with."""
    files = [pd.read_parquet(path) for path in sorted((folder / "generations").glob("*.parquet"))]
    runs = pd.concat(files, ignore_index=True).rename(columns={old: new for new, old in OLD.items()})
    runs = runs.assign(failed=runs["status"] != "ok").sort_values("failed", kind="stable")
    runs = runs.drop_duplicates("run_id")
    manifest = json.loads((folder / "sweep.json").read_text())
    group = {each["id"]: each.get("group") or each["prompt"] for each in manifest["config"]["prompts"]}
    return runs.assign(unit=runs["prompt_id"].map(group))


def by_unit(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """The mean over seeds, then over the prompts of a unit: units by configuration."""
    of_prompts = runs.groupby(["unit", "prompt_id", "configuration"])[column].mean()
    return of_prompts.groupby(["unit", "configuration"]).mean().unstack("configuration")


def losses_of(runs: pd.DataFrame, risk: str) -> pd.DataFrame:
    if risk == "disagreement":
        loss = runs["disagreement"].astype(float)
    elif risk == "answers":
        normal = runs[runs["configuration"] == "normal"].set_index(["prompt_id", "seed"])
        right = normal["correct"].astype(float).where(~normal["failed"], 1.0)
        of_normal = pd.Series(
            pd.MultiIndex.from_frame(runs[["prompt_id", "seed"]]).map(right.to_dict()), index=runs.index
        )
        own = runs["correct"].astype(float)
        loss = ((of_normal == 1) & (own == 0)).astype(float).where(of_normal.notna() & own.notna())
    else:
        sys.exit(f"no risk {risk} here")
    return by_unit(runs.assign(loss=loss.where(~runs["failed"], 1.0)), "loss")


def mixture(safe: float, bold: float, bound: float) -> tuple[float, float]:
    """Shares of the safer and of the bolder setting; full depth has the rest."""
    if bold <= bound:
        return 0.0, 1.0
    if safe >= bold:
        return 0.0, bound / bold
    if safe <= bound:
        share = (bound - safe) / (bold - safe)
        return 1 - share, share
    return bound / safe, 0.0


def main(out: Path) -> int:
    verdict = json.loads((out / "verdict.json").read_text())
    runs = pd.concat([runs_of(out / "run"), runs_of(out / "oracles")], ignore_index=True)
    loss = losses_of(runs, verdict["bound"]["risk"])
    settings = [key for key in loss.columns if key != "normal"]
    known = loss.index[loss[settings].notna().all(axis=1)]
    done = runs[~runs["failed"]]
    full, exits = (by_unit(done, column).reindex(known) for column in ("macs_full", "macs_to_exit"))
    bound, worst = verdict["bound"]["max_risk"], 0.0

    def lost(key: str | None) -> float:
        return float(loss.loc[known, key].mean()) if key else 0.0

    def saved(key: str | None) -> float:
        if key is None:
            return 0.0
        failed = full[key].isna() | exits[key].isna()  # which saves nothing
        all_of, ran = full[key].mask(failed, full["normal"]), exits[key].mask(failed, full["normal"])
        return float(1 - ran.sum() / all_of.sum())

    for name, cell in verdict["cells"].items():
        safe, bold = (0.0, 1.0) if name == "A" else mixture(lost(cell["safe"]), lost(cell["bold"]), bound)
        here = {
            "saved": safe * saved(cell["safe"]) + bold * saved(cell["bold"]),
            "lost": safe * lost(cell["safe"]) + bold * lost(cell["bold"]),
        }
        there = {"saved": cell["saved"]["mean"], "lost": cell["lost"]}
        off = max(abs(here[each] - there[each]) for each in here)
        worst = max(worst, off)
        print(name, {each: (round(here[each], 6), round(there[each], 6)) for each in here}, f"off {off:.1e}")
    print(f"{len(known)} prompts or groups; at most {worst:.1e} off")
    return int(not verdict["cells"] or worst > 1e-9 or not np.isfinite(worst))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
