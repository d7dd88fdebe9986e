"""A file of the original format by another program, compared with its own numbers.

Its model has 28 layers. `exitable_layers` ends with the final layer, `layer_distribution` counts early exits only, and
`chosen_exit_layers` has 27 for tokens that exit at the final layer.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import drawn
from report_fixtures import Visit, all_drawn, ink_of

from reports import generate_multi_prompt_html_visualization
from reports.read.original_sweep import sweep_of
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.per_configuration import per_configuration

LISTED = [5, 10, 15, 20, 25, 27]
N_LAYERS, N_TOKENS = 28, 26
GRID = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0.5, 2.0))]
EARLY = "unfrozen/kl/0.5"


def result(draw: np.random.Generator, mode: str, k: float | None, normal: list[str]) -> dict[str, Any]:
    early, same = (0.0, N_TOKENS) if k is None else (0.3 / k, 3 * k)
    chosen = [27 if draw.random() > early else int(draw.choice(LISTED[:-1])) for _ in range(N_TOKENS)]
    tokens = [word if i < same else f" w{draw.integers(9)}" for i, word in enumerate(normal)]
    counts = Counter(layer for layer in chosen if layer != 27)
    evaluation = {
        "scores": {"coherence": int(draw.integers(1, 10)), "task completion": int(draw.integers(1, 10))},
        "accuracy_score": float(draw.uniform(1, 10)),
        "early_exit_stats": {
            "total_tokens": N_TOKENS, "early_exits": counts.total(), "early_exit_rate": counts.total() / N_TOKENS,
            "layer_distribution": {str(layer): n for layer, n in sorted(counts.items())},
        },
        "chosen_exit_layers": chosen, "tokens": tokens, "exitable_layers": LISTED,
    }  # fmt: skip
    return {"mode": mode, "kl_factor": k, "response": "".join(tokens), "evaluation": evaluation}


def entries() -> list[dict[str, Any]]:
    draw, found = np.random.default_rng(5), []
    for prompt in range(6):
        normal = [f" w{n}" for n in draw.integers(0, 9, N_TOKENS)]
        found.append({"prompt": f"Question {prompt}?", "results": [result(draw, *its, normal) for its in GRID]})
    return found


RESULTS = entries()
SWEEP = sweep_of(RESULTS)


def mean_of(value: Callable[[dict[str, Any]], float]) -> float:
    """Return a mean over the prompts, computed without the report's code."""
    return float(np.mean([value(entry["results"][1]["evaluation"]) for entry in RESULTS]))


def share_at(layer: int) -> float:
    return mean_of(lambda its: its["chosen_exit_layers"].count(layer) / N_TOKENS)


def test_exits_and_means_are_those_of_the_file() -> None:
    assert (SWEEP.exitable_layers, SWEEP.final_layer) == ((5, 10, 15, 20, 25), 27), "the final layer is no exitable one"
    mix = exit_mix(SWEEP)
    assert set(mix["configuration"]) == {configuration.key for configuration in SWEEP.configurations}
    shares = mix[mix["configuration"] == EARLY]["share"]
    np.testing.assert_allclose(shares, [share_at(layer) for layer in LISTED])
    row = per_configuration(SWEEP).set_index("configuration").loc[EARLY]
    assert row["exit_rate"] == pytest.approx(mean_of(lambda its: its["early_exit_stats"]["early_exit_rate"]))
    skipped = 1 - (mean_of(lambda its: np.mean(its["chosen_exit_layers"])) + 1) / N_LAYERS
    assert row["layers_skipped"] == pytest.approx(skipped)
    assert row["score_coherence"] == pytest.approx(mean_of(lambda its: its["scores"]["coherence"]))
    assert row["equal_share"] < 1
    assert row[["perplexity", "disagreement"]].isna().all(), "the file doesn't say"
    depth = depth_by_position(SWEEP)
    one = depth[depth["configuration"] == EARLY].set_index("position")["depth"]
    layers = [entry["results"][1]["evaluation"]["chosen_exit_layers"] for entry in RESULTS]
    binned = pd.DataFrame(layers).T.groupby(lambda i: i // int(depth["width"].iloc[0])).mean().mean(axis=1)
    np.testing.assert_allclose(one, (binned + 1) / N_LAYERS)


def test_everything_that_the_file_allows_is_charted_and_shown(visit: Visit, tmp_path: Path) -> None:
    charts = drawn(SWEEP)
    assert list(charts) == ["quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth"]
    measures = [variant["y"] for variant in charts["quality"]["variants"]]
    assert measures[:3] == ["Accuracy score", "Score: coherence", "Score: task completion"]
    assert "Fidelity" in measures
    page = all_drawn(visit("#/?open=all", generate_multi_prompt_html_visualization(RESULTS, tmp_path / "page.html")))
    assert min(ink_of(chart) for chart in page.locator(".chart").all()) > 50
    assert "null" not in page.locator("main").inner_text()
    page.goto(page.url.split("#")[0] + f"#/p/0/{EARLY}")
    page.get_by_role("heading", name=f"{EARLY} on prompt 0").wait_for()
    assert page.locator(".legend li").all_inner_texts()[-1].startswith("27 (final)")


def changed(**change: Any) -> list[dict[str, Any]]:
    """Return the entries with some keys of every evaluation changed, or removed where the value is None."""
    results = copy.deepcopy(RESULTS)
    for run in itertools.chain(*(entry["results"] for entry in results)):
        evaluation = run["evaluation"] | change
        run["evaluation"] = {key: value for key, value in evaluation.items() if value is not None}
    return results


def test_without_chosen_layers_early_exits_alone_are_not_taken_for_all() -> None:
    """Otherwise 3.8 % would become 11.5 %: a distribution's early exits are not all tokens."""
    mix = exit_mix(sweep_of(changed(chosen_exit_layers=None)))
    at_5 = mix[(mix["configuration"] == EARLY) & (mix["exit_layer"] == 5)]["share"].item()
    assert at_5 == pytest.approx(share_at(5))


def test_what_cannot_be_counted_is_absent() -> None:
    stats = {"layer_distribution": {"5": 1}, "early_exit_rate": 0.25}
    sweep = sweep_of(changed(chosen_exit_layers=None, early_exit_stats=stats, scores=None, accuracy_score=None))
    trade = per_configuration(sweep)
    assert (trade["exit_rate"] == 0.25).all()
    assert trade["layers_skipped"].isna().all()
    assert sweep.scores == {}
    assert "quality" not in drawn(sweep)


def test_a_first_token_that_statistics_leave_out_was_not_decided() -> None:
    """As in our own files, 25 of 26 tokens are counted, since the first one always exits at the final layer."""
    results = copy.deepcopy(RESULTS[:1])
    run = results[0]["results"][1]["evaluation"]
    run["chosen_exit_layers"][0] = 27
    run["early_exit_stats"]["total_tokens"] = N_TOKENS - 1
    sweep = sweep_of(results)
    assert sweep.layer_counts[1].sum() == N_TOKENS - 1
    early = [layer != 27 for layer in run["chosen_exit_layers"][1:]]
    assert sweep.generations.loc[1, "exit_rate"] == pytest.approx(np.mean(early))
    decided = sweep.tokens.to_table().to_pandas().query("run_id == '1'")["decided"]
    assert decided.tolist() == [False] + [True] * (N_TOKENS - 1)


@pytest.mark.parametrize(
    ("chosen", "listed", "n_early", "exitable", "final"),
    [
        ([5, -1], [5, 10], None, (5, 10), None),
        ([5, None], [5, 10], None, (5, 10), None),
        ([5, float("inf")], [5, 10], None, (5, 10), None),
        ([5, "inf"], [5, 10], None, (5, 10), None),
        ([5, 10, 29], [], None, (5, 10), 29),
        ([5, 10, -1], [], None, (5, 10), None),
        ([29, 29], [], None, (), 29),
        ([5, 10], [5, 10], 2, (5, 10), None),  # a layer that is counted as early is not the final one
    ],
)
def test_the_final_layer_and_exitable_ones_may_be_written_in_several_ways(
    chosen: list[Any], listed: list[int], n_early: int | None, exitable: tuple[int, ...], final: int | None
) -> None:
    evaluation: dict[str, Any] = {
        "chosen_exit_layers": chosen,
        "tokens": ["a"] * len(chosen),
        "exitable_layers": listed,
    }
    evaluation |= {"early_exit_stats": {"total_tokens": len(chosen), "early_exits": n_early}}
    sweep = sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 1, "evaluation": evaluation}]}])
    assert (sweep.exitable_layers, sweep.final_layer) == (exitable, final)
    exits = [layer if layer in (*exitable, final) else None for layer in chosen]
    assert sweep.tokens.to_table()["exit_layer"].to_pylist() == exits
    assert sweep.generations["mean_depth"].isna().all() == (final is None)
    assert sweep.generations.loc[0, "exit_rate"] == pytest.approx(np.mean([layer in exitable for layer in chosen]))
