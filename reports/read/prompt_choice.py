"""Choice of the prompts whose texts and tokens a report holds: all of a small sweep, some of a large one.

Half of the chosen prompts are extreme in one of several numbers, such as the exit rate or the perplexity. The other
half are spaced evenly over the remaining prompts, sorted by exit rate.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import DRAFT, NORMAL
from eexit.plan.runs import ERROR
from reports.read.sweep import NotASweepError, Sweep

MOST: int = 100  # prompts whose texts a report holds by default
_EXTREMES: Final = {
    "highest exit rate": "exit rate",
    "lowest exit rate": "exit rate",
    "highest perplexity": "perplexity",
    "longest loop": "loop",
    "earliest difference from normal": "difference",
    "most failed runs": "failed runs",
}


def choose_prompts(sweep: Sweep, wanted: int | Sequence[str] = MOST) -> dict[str, str]:
    """Return the chosen prompts as prompt id → reason, in the sweep's order. `wanted` is their number, or their ids.

    Raise `NotASweepError` if the sweep lacks a wanted id.
    """
    if not isinstance(wanted, int):
        unknown = [prompt_id for prompt_id in wanted if prompt_id not in sweep.prompts]
        if unknown:
            raise NotASweepError(f"no such prompt in the sweep: {', '.join(unknown)}")
        return {prompt_id: "named by the command" for prompt_id in sweep.prompts if prompt_id in set(wanted)}
    if wanted >= len(sweep.prompts):
        return dict.fromkeys(sweep.prompts, "")
    numbers = _numbers(sweep)
    chosen: dict[str, str] = {}
    for prompt_id, why in _extremes(numbers):
        if len(chosen) >= wanted // 2:
            break
        chosen.setdefault(prompt_id, why)
    rest = numbers.drop(index=list(chosen)).sort_values("exit rate", kind="stable").index
    spread = np.linspace(0, len(rest) - 1, wanted - len(chosen)).round().astype(int)
    chosen |= dict.fromkeys(rest[spread], "evenly spread over exit rates")
    return {prompt_id: chosen[prompt_id] for prompt_id in sweep.prompts if prompt_id in chosen}


def _numbers(sweep: Sweep) -> pd.DataFrame:
    """Return one row per prompt, over runs that can exit early and are not controls. Failures count all runs."""
    runs = sweep.generations
    runs = runs.assign(error=(runs["status"] == ERROR).astype(float))
    early = runs[~runs["mode"].isin([NORMAL, DRAFT]) & runs["control_of"].isna()].groupby("prompt_id")
    return pd.DataFrame(
        {
            "exit rate": early["exit_rate"].mean(),
            "perplexity": early["log_perplexity"].max(),
            "loop": early["longest_loop"].max(),
            "difference": early["tokens_until_difference"].min(),
            "failed runs": runs.groupby("prompt_id")["error"].sum(),
        },
        index=list(sweep.prompts),
    ).astype(float)


def _extremes(numbers: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield (prompt id, reason): first the most extreme prompt of each number, then each second most extreme, …"""
    ranked = {}
    for why, name in _EXTREMES.items():
        is_low = why.startswith(("lowest", "earliest"))
        known = numbers[name].dropna().sort_values(ascending=is_low, kind="stable")
        ranked[why] = known.index if is_low else known.index[known > 0]
    for rank in range(len(numbers)):
        for why, prompt_ids in ranked.items():
            if rank < len(prompt_ids):
                yield prompt_ids[rank], f"{why}, place {rank + 1}"
