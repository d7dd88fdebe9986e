"""Means of each configuration, compared with numbers computed by hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_fixtures import MakeSweep
from synthetic_sweeps import KL_1, swept

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import Sweep, read_sweep
from reports.shared.per_configuration import naming, per_configuration

FOLLOWED, CONTROL = "unfrozen/kl/2", "unfrozen/random/kl/2"  # of several


def means_of(folder: Path, changes: Mapping[tuple[str, int], Mapping[str, Any]]) -> pd.DataFrame:
    """Return the means of `normal` and `unfrozen/kl/1` on two prompts, with these columns by mode and prompt."""
    path = swept(folder, n_prompts=2, columns=lambda its, prompt, _: changes.get((its.mode, prompt), {}))
    return per_configuration(read_sweep(str(path))).set_index("configuration")


def test_means_are_over_prompts_and_perplexity_is_geometric(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0): {"exit_rate": 0.2, "mean_depth": 0.9, "perplexity": 2.0},
        ("unfrozen", 1): {"exit_rate": 0.6, "mean_depth": 0.7, "perplexity": 8.0},
    }
    row = means_of(tmp_path / "s", changes).loc[KL_1.key]
    assert [row[name] for name in ("exit_rate", "layers_skipped", "perplexity", "n")] == pytest.approx([0.4, 0.2, 4, 2])


def test_a_text_that_is_mostly_one_loop_is_marked_unless_normal_loops_too(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0): {"n_tokens": 100, "longest_loop": 95},
        ("unfrozen", 1): {"n_tokens": 40, "longest_loop": 6},
        ("normal", 0): {"n_tokens": 100, "longest_loop": 2},
        ("normal", 1): {"n_tokens": 0, "longest_loop": 0},
    }
    names = ["loop_share", "loop_share_n", "looping"]
    trade = means_of(tmp_path / "0", changes)
    assert [*trade.loc[KL_1.key, names]] == [pytest.approx((0.95 + 0.15) / 2), 2, True]
    assert [*trade.loc["normal", names]] == [pytest.approx(0.02), 1, False]
    half = changes | {("unfrozen", 1): {"n_tokens": 40, "longest_loop": 2}}
    assert not means_of(tmp_path / "1", half).loc[KL_1.key, "looping"]
    alike = changes | {("normal", 0): {"n_tokens": 100, "longest_loop": 60}}
    assert not means_of(tmp_path / "2", alike)["looping"].any()


def test_configurations_and_their_controls_stand_in_the_order_of_the_sweep(several: Sweep) -> None:
    trade = per_configuration(several).set_index("configuration")
    assert trade.index.tolist() == [configuration.key for configuration in several.configurations]
    means = several.generations.groupby("configuration")["disagreement"].mean()
    np.testing.assert_allclose(trade["disagreement"], means[trade.index])
    for name in ("disagreement", "perplexity", "tokens_until_difference"):
        assert trade[f"{name}_control"][FOLLOWED] == trade[name][CONTROL]
        assert trade[f"{name}_control"].notna().sum() == 8


def test_a_control_of_another_sweeps_configuration_is_a_point_of_its_own(several: Sweep) -> None:
    kept = tuple(c for c in several.configurations if c.columns["rule"] != "kl")
    rows = several.generations["configuration"].isin([c.key for c in kept])
    apart = replace(
        several, configurations=kept, generations=several.generations[rows], layer_counts=several.layer_counts[rows]
    )
    trade = per_configuration(apart).set_index("configuration")
    assert (trade["control_of"][CONTROL], trade["series"][CONTROL]) == (FOLLOWED, CONTROL)
    assert pd.isna(trade["beneath"][CONTROL])


def test_oracles_are_marked_beside_other_rules_only(several: Sweep, make_sweep: MakeSweep) -> None:
    shown = dict(per_configuration(several)[["configuration", "shown_as"]].values)
    oracles = {key for key in shown if ("/kl/" in key and "random" not in key)}
    assert {key for key, name in shown.items() if name != key} == oracles
    alone = per_configuration(read_sweep(str(make_sweep(2))))
    assert alone["shown_as"].tolist() == alone["configuration"].tolist()


def test_a_rule_of_a_later_version_has_short_names() -> None:
    later = [EarlyExit("unfrozen", "later", parameter) for parameter in (0.5, 0.9)]
    assert [naming(configuration)["short"] for configuration in later] == ["U·later .5", "U·later .9"]
