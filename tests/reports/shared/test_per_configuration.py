"""Means of each configuration, compared with numbers computed by hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_fixtures import MakeSweep
from synthetic_sweeps import PAIR, failed_row, run_rows, swept, write_runs

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import Sweep, read_sweep
from reports.shared.per_configuration import naming, per_configuration

FOLLOWED, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"


def row_of(frame: pd.DataFrame, configuration: str = FOLLOWED) -> pd.Series:
    return frame[frame["configuration"] == configuration].iloc[0]


def of_two(folder: Path, changes: Mapping[tuple[str, int], Mapping[str, Any]]) -> pd.DataFrame:
    """Return the frame of `normal` and `unfrozen/kl/1` on two prompts, with these columns by mode and prompt."""
    return per_configuration(
        read_sweep(str(swept(folder, PAIR, 2, columns=lambda its, prompt, _: changes.get((its.mode, prompt), {}))))
    )


def test_means_are_over_prompts_and_perplexity_is_geometric(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0): {"exit_rate": 0.2, "mean_depth": 0.9, "perplexity": 2.0},
        ("unfrozen", 1): {"exit_rate": 0.6, "mean_depth": 0.7, "perplexity": 8.0},
    }
    row = row_of(of_two(tmp_path / "s", changes))
    its = [row[name] for name in ("exit_rate", "layers_skipped", "perplexity", "n")]
    assert its == pytest.approx([0.4, 0.2, 4.0, 2])


def test_seeds_are_averaged_within_a_prompt_first(tmp_path: Path) -> None:
    # Prompt 0 has seeds 0 and 1, prompt 1 has one of them failed: a mean over runs is 0.4, over prompts 0.55.
    runs = [
        run_rows(str(prompt), f"{prompt}?", "unfrozen", 1.0, ["a", "b"], seed, exit_rate=rate)
        for prompt, seed, rate in ((0, 0, 0.0), (0, 1, 0.2), (1, 0, 1.0))
    ]
    runs.append((failed_row("1", "1?", "unfrozen", 1.0, "no") | {"run_id": "other", "seed": 1}, []))
    row = row_of(per_configuration(read_sweep(str(write_runs(tmp_path / "results", runs)))))
    assert row["exit_rate"] == pytest.approx(0.55)
    assert (row["n"], row["n_failed"]) == (2, 1)


def test_a_text_that_is_mostly_one_loop_is_marked_unless_normal_loops_too(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0): {"n_tokens": 100, "longest_loop": 95},
        ("unfrozen", 1): {"n_tokens": 40, "longest_loop": 6},
        ("normal", 0): {"n_tokens": 100, "longest_loop": 2},
        ("normal", 1): {"n_tokens": 0, "longest_loop": 0},
    }
    trade = of_two(tmp_path / "0", changes)
    early, normal = row_of(trade), row_of(trade, "normal")
    assert (early["loop_share"], early["looping"]) == (pytest.approx((0.95 + 0.15) / 2), True)
    assert (normal["loop_share"], normal["loop_share_n"], normal["looping"]) == (pytest.approx(0.02), 1, False)
    half = changes | {("unfrozen", 1): {"n_tokens": 40, "longest_loop": 2}}
    assert not row_of(of_two(tmp_path / "1", half))["looping"]
    alike = changes | {("normal", 0): {"n_tokens": 100, "longest_loop": 60}}
    assert not of_two(tmp_path / "2", alike)["looping"].any()


def test_configurations_and_their_controls_stand_in_the_order_of_the_sweep(several: Sweep) -> None:
    keys = [configuration.key for configuration in several.configurations]
    trade = per_configuration(several)
    assert trade["configuration"].tolist() == keys
    means = several.generations.groupby("configuration")["disagreement"].mean()
    np.testing.assert_allclose(trade["disagreement"], means[trade["configuration"]])
    trade = trade.set_index("configuration")
    for name in ("disagreement", "perplexity", "tokens_until_difference"):
        assert trade[f"{name}_control"][FOLLOWED] == trade[name][CONTROL]
        assert trade[f"{name}_control"].notna().sum() == 6


def test_a_control_of_another_sweeps_configuration_is_a_point_of_its_own(several: Sweep) -> None:
    kept = tuple(c for c in several.configurations if c.columns["rule"] != "kl")
    rows = several.generations["configuration"].isin([c.key for c in kept])
    apart = replace(
        several, configurations=kept, generations=several.generations[rows], layer_counts=several.layer_counts[rows]
    )
    trade = per_configuration(apart).set_index("configuration")
    assert (trade["control_of"][CONTROL], trade["series"][CONTROL]) == (FOLLOWED, CONTROL)
    assert trade["beneath"].isna().all()


def test_oracles_are_marked_beside_other_rules_only(several: Sweep, make_sweep: MakeSweep) -> None:
    shown = dict(per_configuration(several)[["configuration", "shown_as"]].values)
    assert {key for key, name in shown.items() if name != key} == {
        key for key in shown if ("/kl/" in key and "random" not in key) or "agree" in key
    }
    alone = per_configuration(read_sweep(str(make_sweep(2))))
    assert alone["shown_as"].tolist() == alone["configuration"].tolist()


def test_a_rule_of_a_later_version_has_short_names() -> None:
    later = [EarlyExit("unfrozen", "later", parameter) for parameter in (0.5, 0.9)]
    assert [naming(configuration)["short"] for configuration in later] == ["U·later .5", "U·later .9"]
