"""Overview frames: one tidy pandas frame per chart, aggregated over prompts, every row with its n.

Several seeds of a prompt are averaged first, so that a prompt counts once. Failed runs are left out of every mean and
counted in `n_failed`. Estimates come as `<name>`, `<name>_low`, `<name>_high`, `<name>_n`.
"""

from typing import Final

import numpy as np
import pandas as pd

from reports.bootstrap import Estimate, estimate, estimate_columns
from reports.sweep import NORMAL, Configuration, Sweep

# Columns of `generations` that are averaged over prompts as they are; perplexity is averaged in nats per token.
AVERAGED: Final = (
    "exit_rate",
    "mean_depth",
    "tokens_until_difference",
    "equal_share",
    "lcs_share",
    "distinct_2",
    "distinct_3",
    "longest_loop",
    "n_tokens",
)
DIFFERENCES: Final = ("perplexity", "distinct_2", "longest_loop", "n_tokens")
MAX_BINS: Final = 25


def trade_off(sweep: Sweep) -> pd.DataFrame:
    """One row per configuration: every statistic averaged over prompts.

    `layers_skipped` is 1 − mean depth, a theoretical saving. Perplexity is the geometric mean over prompts (the mean of
    its logarithm, in nats per token, and back).
    """
    by_prompt = _by_prompt(sweep)
    n_failed = sweep.failed["configuration"].value_counts()
    rows = []
    for configuration in sweep.configurations:
        runs = by_prompt[by_prompt["configuration"] == configuration.key]
        row = _naming(configuration) | {"n": len(runs), "n_failed": int(n_failed.get(configuration.key, 0))}
        for name in AVERAGED:
            row |= _spread(name, estimate(runs[name].to_numpy(dtype=float)))
        row |= _spread("perplexity", _exp(estimate(runs["log_perplexity"].to_numpy(dtype=float))))
        depth = estimate(runs["mean_depth"].to_numpy(dtype=float))
        row |= _spread("layers_skipped", Estimate(1 - depth.mean, 1 - depth.high, 1 - depth.low, depth.n))
        rows.append(row)
    return pd.DataFrame(rows)


def dose_response(sweep: Sweep) -> pd.DataFrame:
    """The trade-off without k = 0, which has no place on a log2 axis: exit rate and mean depth by KL factor."""
    frame = trade_off(sweep)
    if frame.empty:
        return frame
    return frame[frame["kl_factor"].isna() | (frame["kl_factor"] > 0)]


def exit_mix(sweep: Sweep) -> pd.DataFrame:
    """Share of decided tokens per configuration and exit layer, averaged over prompts."""
    layers = layer_labels(sweep)
    done = sweep.done[sweep.done["exit_layer_counts"].notna()]
    shares = pd.DataFrame([_shares(counts, layers) for counts in done["exit_layer_counts"]], columns=range(len(layers)))
    shares = pd.concat([done[["configuration", "prompt_id"]].reset_index(drop=True), shares], axis=1)
    by_prompt = shares.dropna().groupby(["configuration", "prompt_id"]).mean().reset_index()
    rows = []
    for configuration in sweep.configurations:
        runs = by_prompt[by_prompt["configuration"] == configuration.key]
        for rank, label in enumerate(layers.values()):
            spread = _spread("share", estimate(runs[rank].to_numpy(dtype=float)))
            rows.append(_naming(configuration) | {"layer": label, "rank": rank, "n": len(runs)} | spread)
    return pd.DataFrame(rows)


def depth_by_position(sweep: Sweep) -> pd.DataFrame:
    """Mean depth (fraction of L) along the text, in at most 25 bins of equal width; decided tokens only.

    A bin's n is the number of prompts whose text reaches it: towards the end only the long texts are left.
    """
    if sweep.final_layer is None or sweep.tokens.empty:
        return pd.DataFrame()
    runs = sweep.done.set_index("run_id")["configuration"]
    tokens = sweep.tokens[sweep.tokens["decided"] & sweep.tokens["run_id"].isin(runs.index)]
    if tokens.empty:
        return pd.DataFrame()
    width = int(np.ceil((tokens["position"].max() + 1) / MAX_BINS))
    depth = pd.DataFrame(
        {
            "configuration": tokens["run_id"].map(runs),
            "prompt_id": tokens["prompt_id"],
            "seed": tokens["seed"],
            "bin": tokens["position"] // width,
            "depth": (tokens["exit_layer"] + 1) / (sweep.final_layer + 1),
        }
    )
    per_run = depth.groupby(["configuration", "prompt_id", "seed", "bin"])["depth"].mean()
    per_prompt = per_run.groupby(["configuration", "prompt_id", "bin"]).mean().unstack("bin")
    rows, bins = [], [int(place) for place in per_prompt.columns.to_list()]
    for configuration in sweep.configurations:
        if configuration.key not in per_prompt.index:
            continue
        values_PX = per_prompt.loc[configuration.key].to_numpy(dtype=float)
        for place, spread in zip(bins, zip(*estimate_columns(values_PX), strict=True), strict=True):
            if spread[3]:
                position = {"position": place * width + (width - 1) / 2, "width": width}
                rows.append(_naming(configuration) | position | _spread("depth", Estimate(*spread)))
    return pd.DataFrame(rows)


def paired_differences(sweep: Sweep) -> pd.DataFrame:
    """Each configuration against `normal` on the same prompt and seed: differences, and the ratio of perplexities."""
    done = sweep.done
    normal = done[done["mode"] == NORMAL].set_index(["prompt_id", "seed"])
    rows = []
    for configuration in sweep.configurations:
        runs = done[done["configuration"] == configuration.key].set_index(["prompt_id", "seed"])
        both = runs.index.intersection(normal.index)
        if configuration.mode == NORMAL or both.empty:
            continue
        row = _naming(configuration) | {"n": both.get_level_values("prompt_id").nunique()}
        for name in DIFFERENCES:
            column = "log_perplexity" if name == "perplexity" else name
            difference = runs.loc[both, column].astype(float) - normal.loc[both, column].astype(float)
            spread = estimate(difference.groupby("prompt_id").mean().to_numpy())
            row |= _spread(name, _exp(spread) if name == "perplexity" else spread)
        rows.append(row)
    return pd.DataFrame(rows)


def layer_labels(sweep: Sweep) -> dict[int | None, str]:
    """Exit layer → its name, in rank order; None stands for a final layer whose number isn't known."""
    final = "final" if sweep.final_layer is None else f"{sweep.final_layer} (final)"
    return {**{layer: str(layer) for layer in sweep.exitable_layers}, sweep.final_layer: final}


def _by_prompt(sweep: Sweep) -> pd.DataFrame:
    columns = [*AVERAGED, "log_perplexity"]
    numbers = sweep.done.astype(dict.fromkeys(columns, float))
    return numbers.groupby(["configuration", "prompt_id"])[columns].mean().reset_index()


def _naming(configuration: Configuration) -> dict[str, object]:
    label = configuration.mode if configuration.kl_factor is None else f"{configuration.kl_factor:g}"
    return {
        "configuration": configuration.key,
        "mode": configuration.mode,
        "kl_factor": configuration.kl_factor,
        "label": label,
    }


def _spread(name: str, spread: Estimate) -> dict[str, float]:
    low, high = float(spread.low), float(spread.high)
    return {name: float(spread.mean), f"{name}_low": low, f"{name}_high": high, f"{name}_n": int(spread.n)}


def _exp(spread: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        return Estimate(float(np.exp(spread.mean)), float(np.exp(spread.low)), float(np.exp(spread.high)), spread.n)


def _shares(counts: list[tuple[int | None, int]], layers: dict[int | None, str]) -> list[float]:
    """Shares in rank order; NaN where nothing was decided."""
    by_layer = dict(counts)
    numbers = np.array([float(by_layer.get(layer, 0)) for layer in layers])
    return list(numbers / numbers.sum()) if numbers.sum() else [np.nan] * len(layers)
