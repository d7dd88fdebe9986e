"""Frames compared with numbers computed by hand."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from chart_fields import drawn
from report_fixtures import MakeSweep
from synthetic_quality import judge
from synthetic_sweeps import CONFIGURATIONS, FINAL, LAYERS, failed_row, run_rows, write_runs

from eexit.quality.estimates import MIN_SAMPLES, ValueKind, estimate_columns
from eexit.results.layout import FORMAT
from reports.page.payload import payload
from reports.read.prompt_choice import choose_prompts
from reports.read.sweep import NotASweepError, Sweep, read_sweep
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.dose_response import dose_response
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration


def row_of(frame: pd.DataFrame, configuration: str) -> pd.Series:
    return frame[frame["configuration"] == configuration].iloc[0]


def small_sweep(
    tmp_path: Path,
    changes: Mapping[tuple[str, int, int], Mapping[str, Any]],
    n_prompts: int,
    seeds: Sequence[int] = (0,),
) -> Sweep:
    """Write `normal` and `unfrozen/kl/1` on each prompt, with a test's values of some columns."""
    runs = []
    for prompt, (mode, k), seed in product(range(n_prompts), (("normal", None), ("unfrozen", 1.0)), seeds):
        change = changes.get((mode, prompt, seed), {})
        runs.append(run_rows(f"{prompt}", f"Question {prompt}?", mode, k, ["a", "b", "c", "d"], seed, **change))
    return read_sweep(str(write_runs(tmp_path / "results", runs)))


def test_means_are_over_prompts_and_perplexity_is_geometric(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0, 0): {"exit_rate": 0.2, "mean_depth": 0.9, "perplexity": 2.0},
        ("unfrozen", 1, 0): {"exit_rate": 0.6, "mean_depth": 0.7, "perplexity": 8.0},
    }
    row = row_of(per_configuration(small_sweep(tmp_path, changes, 2)), "unfrozen/kl/1")
    assert row["exit_rate"] == pytest.approx(0.4)
    assert row["layers_skipped"] == pytest.approx(0.2)
    assert row["perplexity"] == pytest.approx(4.0)
    assert row["n"] == 2


def repeated(tmp_path: Path, temperature: float = 0.0) -> Path:
    """Return six prompts and two seeds: runs of `normal` are the same for both, runs of `unfrozen/kl/1` are not."""
    runs = []
    for prompt, seed in ((prompt, seed) for prompt in range(6) for seed in (3, 4)):
        for mode, k in (("normal", None), ("unfrozen", 1.0)):
            change: dict[str, Any] = {"perplexity": 2.0, "exit_rate": 0.0} if k is None else {"perplexity": 2.0 + seed}
            if (mode, prompt, seed) == ("normal", 5, 3):
                change |= {"status": "error", "perplexity": None, "n_tokens": None}
            pieces = ["one", " two", f" {mode} {seed if k else ''}"]
            row, rows = run_rows(f"{prompt}", f"Question {prompt}?", mode, k, pieces, seed, **change)
            runs.append((row, rows if row["status"] == "ok" else []))
    return write_runs(tmp_path / "results", runs, temperature)


def test_a_run_that_is_the_same_for_every_seed_counts_once_and_is_compared_with_each(tmp_path: Path) -> None:
    folder = repeated(tmp_path)
    judge(folder, fails=["0-normal-None-3", "0-normal-None-4"])
    sweep = read_sweep(str(folder))
    assert (sweep.n_landed, len(sweep.generations), len(sweep.failed)) == (24, 18, 0), "one seed did not fail"
    normal = sweep.generations[sweep.generations["configuration"] == "normal"]
    assert list(zip(normal["seed"], normal["every_seed"], strict=True)) == [(3, True)] * 5 + [(4, True)]
    trade = per_configuration(sweep)
    assert [(row_of(trade, key)["n"], row_of(trade, key)["n_seeds"]) for key in ("normal", "unfrozen/kl/1")] == [
        (6, 1),
        (6, 2),
    ]
    paired = row_of(PairedRuns.from_sweep(sweep).differences(), "unfrozen/kl/1")
    assert (paired["n"], paired["n_seeds"]) == (6, 2)
    assert paired["perplexity"] == pytest.approx(math.sqrt(5 * 6) / 2), "with both seeds of each prompt"
    assert sweep.judges[0].errors == {"normal": 1}
    data, packed = payload(sweep, "title")
    assert data["counts"] | {"runs": 24, "different": 18, "failed": 0} == data["counts"]
    assert dict(data["facts"])["Tokens"] == "54"
    assert dict(data["facts"])["Different runs"].startswith("18 of 24: where tokens are greedy")
    of_first = [(run["c"], run["seed"], run["every"]) for run in data["prompts"][0]["runs"]]
    assert of_first == [(0, 3, True), (1, 3, False), (1, 4, False)]
    assert sum(packed.n) == 54


def test_sampled_runs_are_all_different(tmp_path: Path) -> None:
    sweep = read_sweep(str(repeated(tmp_path, temperature=0.7)))
    assert len(sweep.generations) == 24
    assert not sweep.generations["every_seed"].any()
    assert per_configuration(sweep)["n_seeds"].tolist() == [2, 2]


def test_seeds_are_averaged_within_a_prompt_first(tmp_path: Path) -> None:
    # Prompt 0 has seeds 0 and 1, prompt 1 has one of them failed: a mean over runs is 0.4, over prompts 0.55.
    runs = [
        run_rows(str(prompt), f"{prompt}?", "unfrozen", 1.0, ["a", "b"], seed, exit_rate=rate)
        for prompt, seed, rate in ((0, 0, 0.0), (0, 1, 0.2), (1, 0, 1.0))
    ]
    runs.append((failed_row("1", "1?", "unfrozen", 1.0, "no") | {"run_id": "other", "seed": 1}, []))
    sweep = read_sweep(str(write_runs(tmp_path / "results", runs)))
    row = row_of(per_configuration(sweep), "unfrozen/kl/1")
    assert row["exit_rate"] == pytest.approx(0.55)
    assert (row["n"], row["n_failed"]) == (2, 1)


def test_a_text_that_is_mostly_one_loop_is_marked_unless_normal_loops_too(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0, 0): {"n_tokens": 100, "longest_loop": 95},
        ("unfrozen", 1, 0): {"n_tokens": 40, "longest_loop": 6},
        ("normal", 0, 0): {"n_tokens": 100, "longest_loop": 2},
        ("normal", 1, 0): {"n_tokens": 0, "longest_loop": 0},
    }
    trade = per_configuration(small_sweep(tmp_path / "0", changes, 2))
    early, normal = row_of(trade, "unfrozen/kl/1"), row_of(trade, "normal")
    assert (early["loop_share"], early["looping"]) == (pytest.approx((0.95 + 0.15) / 2), True)
    assert (normal["loop_share"], normal["loop_share_n"], normal["looping"]) == (pytest.approx(0.02), 1, False)
    half = changes | {("unfrozen", 1, 0): {"n_tokens": 40, "longest_loop": 2}}
    assert not row_of(per_configuration(small_sweep(tmp_path / "1", half, 2)), "unfrozen/kl/1")["looping"]
    alike = changes | {("normal", 0, 0): {"n_tokens": 100, "longest_loop": 60}}
    assert not per_configuration(small_sweep(tmp_path / "2", alike, 2))["looping"].any()


def test_no_interval_below_five_prompts() -> None:
    (found,) = estimate_columns(np.array([[0.1], [0.2], [0.3], [0.4], [np.nan]]), [ValueKind.SHARE])
    assert MIN_SAMPLES == 5
    assert math.isnan(found.low)
    assert found.n == 4
    assert found.mean == pytest.approx(0.25)


def test_the_interval_of_numbers_is_students() -> None:
    values = np.random.default_rng(3).normal(10, 2, size=40)
    (found,) = estimate_columns(values[:, None], [ValueKind.NUMBER])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(values.mean())


def test_columns_have_their_own_n() -> None:
    values = np.array([[1.0, np.nan], [2.0, 2.0], [3.0, np.nan], [4.0, 4.0], [5.0, np.nan]])
    first, second = estimate_columns(values, [ValueKind.NUMBER] * 2)
    assert (first.mean, second.mean) == (3.0, 3.0)
    assert (first.n, second.n) == (5, 2)
    assert first.low < 3.0 < first.high
    assert math.isnan(second.low)


def test_exit_mix_averages_the_shares_of_prompts(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", 0, 0): {"exit_layer_counts": [(5, 1), (FINAL, 1)]},
        ("unfrozen", 1, 0): {"exit_layer_counts": [(5, 9), (10, 1)]},
    }
    mix = exit_mix(small_sweep(tmp_path, changes, 2))
    shares = mix[mix["configuration"] == "unfrozen/kl/1"].set_index("shown_layer")["share"]
    assert shares["5"] == pytest.approx(0.7)
    assert shares["10"] == pytest.approx(0.05)
    assert shares["29 (final)"] == pytest.approx(0.25)
    assert list(shares.index) == [*map(str, LAYERS), "29 (final)"]


def test_depth_by_position_leaves_out_tokens_whose_exit_was_not_drawn(tmp_path: Path) -> None:
    depth = depth_by_position(small_sweep(tmp_path, {}, 2))
    one = depth[depth["configuration"] == "unfrozen/kl/1"].set_index("position")
    assert list(one.index) == [1, 2, 3]  # position 0 comes from the final layer whatever the mode
    assert one.loc[1, "depth"] == pytest.approx(1.0)
    assert one.loc[2, "depth"] == pytest.approx((LAYERS[2] + 1) / 30)
    assert set(one["depth_n"]) == {2}


def test_long_texts_are_binned(tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 0.5, ["a"] * 120)
    depth = depth_by_position(read_sweep(str(write_runs(tmp_path / "results", [run]))))
    assert len(depth) == 24
    assert set(depth["width"]) == {5}
    exits = [(LAYERS[i % 5] + 1) / 30 for i in (5, 6, 7, 8, 9)]
    assert depth.set_index("position")["depth"][7.0] == pytest.approx(sum(exits) / 5)


def test_paired_differences_compare_the_same_prompt_and_seed(tmp_path: Path) -> None:
    changes = {
        ("normal", 0, 0): {"perplexity": 2.0, "n_tokens": 10},
        ("normal", 1, 0): {"perplexity": 10.0, "n_tokens": 10},
        ("unfrozen", 0, 0): {"perplexity": 4.0, "n_tokens": 7, "exit_rate": 0.4, "mean_depth": 0.9},
        ("unfrozen", 1, 0): {"perplexity": 80.0, "n_tokens": 11, "exit_rate": 0.2, "mean_depth": 0.8},
    }
    row = row_of(PairedRuns.from_sweep(small_sweep(tmp_path, changes, 2)).differences(), "unfrozen/kl/1")
    assert row["perplexity"] == pytest.approx(4.0)  # sqrt(2 · 8)
    assert row["n_tokens"] == pytest.approx(-1.0)
    assert (row["exit_rate"], row["mean_depth"]) == (pytest.approx(0.3), pytest.approx(-0.15))
    assert row["n"] == 2


def test_any_configuration_may_be_the_one_that_others_are_compared_with(tmp_path: Path) -> None:
    changes: dict[tuple[str, int, int], dict[str, Any]] = {
        ("normal", 0, 0): {"perplexity": 2.0, "n_tokens": 10},
        ("normal", 1, 0): {"status": "error"},
        ("unfrozen", 0, 0): {"perplexity": 4.0, "n_tokens": 7},
    }
    paired = PairedRuns.from_sweep(small_sweep(tmp_path, changes, 2)).differences("unfrozen/kl/1")
    assert list(paired["configuration"]) == ["normal"]
    row = row_of(paired, "normal")
    assert row["perplexity"] == pytest.approx(0.5)
    assert row["n_tokens"] == pytest.approx(3.0)
    assert (row["n"], row["baseline"]) == (1, "unfrozen/kl/1")


def test_dose_response_has_no_place_for_a_factor_of_zero(make_sweep: MakeSweep) -> None:
    """A log2 axis has no zero, whereas the axis of a rule with another parameter than the KL factor has one."""
    trade = per_configuration(read_sweep(str(make_sweep(2, [("normal", None), ("unfrozen", 0.5), ("unfrozen", 2.0)]))))
    keys = ["normal", "unfrozen/kl/0.5", "unfrozen/kl/2"]
    assert trade["configuration"].tolist() == keys
    for rule, parameter, dosed in (("kl", 0.5, keys), ("kl", 0.0, keys[::2]), ("fixed", 0.0, keys)):
        changed = trade.assign(rule=pd.Series([None, rule, rule]), parameter=pd.Series([None, parameter, 2.0]))
        assert dose_response(changed)["configuration"].tolist() == dosed


def test_kl_factors_that_differ_beyond_six_digits_are_configurations_of_their_own(tmp_path: Path) -> None:
    factors = (1.0, 1.0000001, 1.1 + 2.2)
    runs = [run_rows("0", "?", "unfrozen", k, ["a", "b", "c", "d"]) for k in factors]
    sweep = read_sweep(str(write_runs(tmp_path / "results", runs)))
    keys = ["unfrozen/kl/1", "unfrozen/kl/1.0000001", "unfrozen/kl/3.3000000000000003"]
    assert [configuration.key for configuration in sweep.configurations] == keys
    trade = per_configuration(sweep)
    assert list(trade["n"]) == [1, 1, 1]
    assert list(trade["short"]) == ["U·kl 1", "U·kl 1.0000001", "U·kl 3.3000000000000003"]
    depth = drawn(sweep)["depth"]
    assert depth["slice"]["values"] == ["kl/1", "kl/1.0000001", "kl/3.3000000000000003"]
    assert {row["parameter"] for row in depth["table"]["rows"]} == set(factors)


def test_configurations_and_prompts_keep_the_sweeps_order(full: Path) -> None:
    sweep = read_sweep(str(full))
    expected = [mode if k is None else f"{mode}/kl/{k:g}" for mode, k in CONFIGURATIONS]
    assert [c.key for c in sweep.configurations] == expected
    assert list(sweep.prompts) == ["0", "1", "2", "3", "4", "5"]
    assert sweep.layer_counts.shape == (len(sweep.generations), len(LAYERS) + 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no sweep.json"),
        ("{", "not JSON"),
        ('{"format": 99}', "format"),
        (f'{{"format": {FORMAT}}}', "checksum"),
    ],
)
def test_what_is_not_a_sweep_is_said_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(NotASweepError, match=message) as error:
        read_sweep(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotASweepError, match="no such folder"):
        read_sweep(str(tmp_path / "nowhere"))


def test_a_large_sweep_holds_representative_and_extreme_prompts(tmp_path: Path) -> None:
    changes = {
        ("unfrozen", i, 0): {"exit_rate": i / 40, "perplexity": 3.0, "longest_loop": 9 * (i == 7)} for i in range(40)
    }
    sweep = small_sweep(tmp_path, changes, 40)
    held = choose_prompts(sweep, 12)
    assert list(held) == sorted(held, key=int)
    assert len(held) == 12
    assert held["39"] == "highest exit rate, place 1"
    assert held["0"] == "lowest exit rate, place 1"
    assert held["7"] == "longest loop, place 1"
    spread = [int(i) for i, why in held.items() if why == "evenly spread over exit rates"]
    assert len(spread) == 6
    assert max(np.diff(spread)) < 14
    assert choose_prompts(sweep, ["3", "1"]) == {"1": "asked for", "3": "asked for"}
    assert list(choose_prompts(sweep, 40)) == list(sweep.prompts)
    with pytest.raises(NotASweepError, match="no such prompt in the sweep: x"):
        choose_prompts(sweep, ["x"])


def test_tokens_are_aggregated_in_batches(make_sweep: MakeSweep) -> None:
    sweep = read_sweep(str(make_sweep(3)))
    whole = depth_by_position(sweep)
    few = replace(sweep, tokens=SmallBatches(sweep.tokens))
    pd.testing.assert_frame_equal(depth_by_position(few), whole)


class SmallBatches:
    """A dataset that yields batches of seven rows, and can't be read as a whole."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.count_rows = dataset.count_rows

    def to_batches(self, **how: Any) -> Iterator[Any]:
        yield from self.dataset.to_batches(batch_size=7, **how)
