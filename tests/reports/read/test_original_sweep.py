"""A file of the original format by another program, compared with the same numbers computed by pandas.

Its model has 28 layers. `exitable_layers` ends with the final layer, `layer_distribution` counts early exits only, and
`chosen_exit_layers` has 27 for tokens that exit at the final layer.
"""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import drawn
from report_fixtures import Visit, all_drawn, ink_of, picture_of, shows_another

from reports import generate_multi_prompt_html_visualization, load_results_json
from reports.page.payload import payload
from reports.read.original_sweep import sweep_of
from reports.sections.contrasts import beside_section
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration

LISTED = [5, 10, 15, 20, 25, 27]
N_LAYERS, N_TOKENS = 28, 26
GRID = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0.5, 2.0))]


def result(draw: np.random.Generator, mode: str, k: float | None, normal: list[str] | None) -> dict[str, Any]:
    early = 0 if k is None else 0.3 / k
    chosen = [27 if draw.random() > early else int(draw.choice(LISTED[:-1])) for _ in range(N_TOKENS)]
    words = [f" w{n}" for n in draw.integers(0, 9, N_TOKENS)]
    tokens = (
        words
        if normal is None or k is None
        else [n if i < 3 * k else w for i, (n, w) in enumerate(zip(normal, words, strict=True))]
    )
    counts = Counter(layer for layer in chosen if layer != 27)
    return {
        "mode": mode,
        "kl_factor": k,
        "response": "".join(tokens),
        "evaluation": {
            "response": "".join(tokens),
            "scores": {"coherence": int(draw.integers(1, 10)), "task completion": int(draw.integers(1, 10))},
            "accuracy_score": float(draw.uniform(1, 10)),
            "early_exit_stats": {
                "total_tokens": N_TOKENS,
                "early_exits": counts.total(),
                "early_exit_rate": counts.total() / N_TOKENS,
                "layer_distribution": {str(layer): n for layer, n in sorted(counts.items())},
                "usage": None,
            },
            "evaluation_text": "Fine.",
            "chosen_exit_layers": chosen,
            "tokens": tokens,
            "exitable_layers": LISTED,
        },
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw, results = np.random.default_rng(5), []
    for prompt in range(6):
        normal = result(draw, "normal", None, None)
        others = [result(draw, mode, k, normal["evaluation"]["tokens"]) for mode, k in GRID[1:]]
        results.append({"prompt": f"Question {prompt}?", "results": [normal, *others]})
    path = tmp_path_factory.mktemp("foreign") / "early_exit_analysis.json"
    path.write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def table(path: Path) -> pd.DataFrame:
    """Return one row per run, computed from the JSON without the report's code."""
    rows = []
    for prompt, entry in enumerate(json.loads(path.read_text())):
        normal = entry["results"][0]["evaluation"]["tokens"]
        for run in entry["results"]:
            evaluation = run["evaluation"]
            chosen, tokens = pd.Series(evaluation["chosen_exit_layers"]), evaluation["tokens"]
            same = [one == other for one, other in zip(tokens, normal, strict=True)]
            rows.append({
                "prompt": prompt,
                "configuration": run["mode"] + ("" if run["kl_factor"] is None else f"/kl/{run['kl_factor']:g}"),
                "exit_rate": (chosen != 27).mean(),
                "layers_skipped": 1 - (chosen + 1).mean() / N_LAYERS,
                "tokens_until_difference": same.index(False) if False in same else len(tokens),
                "equal_share": np.mean(same),
                "distinct_2": len(set(itertools.pairwise(tokens))) / (len(tokens) - 1),
                "accuracy_score": evaluation["accuracy_score"],
                "score_coherence": evaluation["scores"]["coherence"],
                "score_task_completion": evaluation["scores"]["task completion"],
                **{f"at {layer}": (chosen == layer).mean() for layer in LISTED},
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_the_final_layer_is_no_exitable_one(path: Path) -> None:
    sweep = sweep_of(load_results_json(path))
    assert (sweep.exitable_layers, sweep.final_layer) == ((5, 10, 15, 20, 25), 27)
    assert payload(sweep, "")[0]["layers"] == ["5", "10", "15", "20", "25", "27 (final)"]


def test_exits_are_counted_as_the_file_has_them(path: Path, table: pd.DataFrame) -> None:
    mix = exit_mix(sweep_of(load_results_json(path)))
    expected = table.groupby("configuration")[[f"at {layer}" for layer in LISTED]].mean()
    found = mix.pivot_table("share", "configuration", "rank", sort=False)
    assert sorted(found.index) == sorted(expected.index), "normal has its bar"
    np.testing.assert_allclose(found, expected.loc[found.index])


def test_means_are_those_of_pandas(path: Path, table: pd.DataFrame) -> None:
    sweep = sweep_of(load_results_json(path))
    trade = per_configuration(sweep).set_index("configuration")
    columns = [name for name in table.columns if name in trade]
    assert len(columns) == 8
    expected = table.groupby("configuration")[columns].mean()
    pd.testing.assert_frame_equal(trade[columns].loc[expected.index], expected)
    assert trade[["perplexity", "disagreement"]].isna().all(axis=None), "the file doesn't say"
    paired = PairedRuns.from_sweep(sweep).differences().set_index("configuration")["score_coherence"]
    wide = table.pivot_table("score_coherence", "prompt", "configuration")
    for configuration, difference in paired.items():
        assert difference == pytest.approx((wide[configuration] - wide["normal"]).mean())


def test_depth_along_the_text_is_that_of_the_chosen_layers(path: Path) -> None:
    depth = depth_by_position(sweep_of(load_results_json(path)))
    one = depth[depth["configuration"] == "unfrozen/kl/0.5"].set_index("position")["depth"]
    width = int(depth["width"].iloc[0])
    layers = [
        run["evaluation"]["chosen_exit_layers"]
        for entry in json.loads(path.read_text())
        for run in entry["results"]
        if (run["mode"], run["kl_factor"]) == ("unfrozen", 0.5)
    ]
    expected = (pd.DataFrame(layers).T.groupby(lambda i: i // width).mean().mean(axis=1) + 1) / N_LAYERS
    np.testing.assert_allclose(one, expected)


def test_everything_that_the_file_allows_is_charted(path: Path) -> None:
    sweep = sweep_of(load_results_json(path))
    trade = per_configuration(sweep)
    charts = drawn(sweep)
    assert list(charts) == ["quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth"]
    labels = ["Accuracy score", "Score: coherence", "Score: task completion"]
    measures = [variant["y"] for variant in charts["quality"]["variants"]]
    assert measures[:3] == labels
    assert "Fidelity" in measures
    beside = beside_section(PairedRuns.from_sweep(sweep), trade)
    assert beside
    assert set(labels) <= {measure["label"] for measure in beside["measures"]}


def test_the_page_shows_them(visit: Visit, path: Path, tmp_path: Path) -> None:
    report = generate_multi_prompt_html_visualization(load_results_json(path), tmp_path / "page.html")
    page = all_drawn(visit("#/?open=all", path=report))
    assert min(ink_of(chart) for chart in page.locator(".chart").all()) > 50
    scores = page.locator("[data-chart=quality]")
    before = picture_of(scores)
    scores.get_by_role("combobox", name="Quality").select_option("Score: coherence")
    assert shows_another(scores, before)
    assert "null" not in page.locator("main").inner_text()
    page.goto(page.url.split("#")[0] + "#/p/0/unfrozen/kl/0.5")
    page.get_by_role("heading", name="unfrozen/kl/0.5 on prompt 0").wait_for()
    assert page.locator(".legend li").all_inner_texts()[-1].startswith("27 (final)")
    assert page.locator(".t.r5").first.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"


def changed(path: Path, **change: Any) -> list[dict[str, Any]]:
    """Write the file with some keys of every evaluation changed, or removed where the value is None."""
    results: list[dict[str, Any]] = json.loads(path.read_text())
    for entry in results:
        for run in entry["results"]:
            run["evaluation"] |= change
            run["evaluation"] = {key: value for key, value in run["evaluation"].items() if value is not None}
    return results


def test_without_chosen_layers_early_exits_alone_are_not_taken_for_all(path: Path, table: pd.DataFrame) -> None:
    """Otherwise 3.8 % would become 11.5 %: a distribution's early exits are not all tokens."""
    sweep = sweep_of(changed(path, chosen_exit_layers=None))
    mix = exit_mix(sweep)
    at_5 = mix[(mix["configuration"] == "unfrozen/kl/0.5") & (mix["exit_layer"] == 5)]["share"].item()
    assert at_5 == pytest.approx(table[table["configuration"] == "unfrozen/kl/0.5"]["at 5"].mean())
    trade = per_configuration(sweep).set_index("configuration")
    assert trade.loc["unfrozen/kl/0.5", "exit_rate"] == pytest.approx(
        table[table["configuration"] == "unfrozen/kl/0.5"]["exit_rate"].mean()
    )


def test_what_cannot_be_counted_is_absent(path: Path) -> None:
    stats = {"layer_distribution": {"5": 1}, "early_exit_rate": 0.25}
    sweep = sweep_of(changed(path, chosen_exit_layers=None, early_exit_stats=stats, scores=None, accuracy_score=None))
    assert exit_mix(sweep).empty or exit_mix(sweep)["share"].isna().all()
    trade = per_configuration(sweep)
    assert (trade["exit_rate"] == 0.25).all()
    assert trade["layers_skipped"].isna().all()
    assert sweep.scores == {}
    assert "quality" not in drawn(sweep)


def test_a_first_token_that_statistics_leave_out_was_not_decided(path: Path) -> None:
    """As in our own files, 25 of 26 tokens are counted, since the first one always exits at the final layer."""
    results = json.loads(path.read_text())
    run = results[0]["results"][1]["evaluation"]
    run["chosen_exit_layers"][0] = 27
    run["early_exit_stats"]["total_tokens"] = N_TOKENS - 1
    sweep = sweep_of(results[:1])
    assert sweep.layer_counts[1].sum() == N_TOKENS - 1
    assert sweep.generations.loc[1, "exit_rate"] == pytest.approx(
        np.mean([layer != 27 for layer in run["chosen_exit_layers"][1:]])
    )
    decided = sweep.tokens.to_table().to_pandas().query("run_id == '1'")["decided"]
    assert decided.tolist() == [False] + [True] * (N_TOKENS - 1)


def test_a_layer_that_is_counted_as_early_is_not_the_final_one() -> None:
    evaluation = {"chosen_exit_layers": [5, 10], "tokens": ["a", "b"], "exitable_layers": [5, 10]}
    evaluation |= {"early_exit_stats": {"total_tokens": 2, "early_exits": 2}}
    sweep = sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 1, "evaluation": evaluation}]}])
    assert (sweep.exitable_layers, sweep.final_layer) == ((5, 10), None)
    assert sweep.generations["mean_depth"].isna().all()
    assert sweep.generations.loc[0, "exit_rate"] == 1
