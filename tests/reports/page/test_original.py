"""The original functions: pages of results in the original format, of our own and of other programs."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import blob, content_of, drawn
from report_fixtures import Visit, all_drawn, ink_of

import reports
from eexit.results.original_format import evaluation_of
from reports.page.payload import payload
from reports.read.original_sweep import sweep_of
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.per_configuration import per_configuration

TOKENS = ["Re", "cursion", " is", " é", "\ud83d", "</script>"]


def ours(mode: str, k: float | None, early: int) -> dict[str, Any]:
    evaluation = evaluation_of(
        tokens=TOKENS, exit_layers=[5] * early + [29] * (6 - early), exitable_layers=[5, 10, 15, 20, 25],
        decided_at={5: early, 29: 6 - early}, n_prompt_tokens=3, mean_depth=None,
    ) | {"scores": {"coherence": 7, "accuracy": 8}, "accuracy_score": 7.5, "evaluation_text": "Fine."}  # fmt: skip
    return {"mode": mode, "kl_factor": k, "response": "".join(TOKENS), "evaluation": evaluation}


OURS = ours("unfrozen", 0.5, 3)


def prompts_of(results: list[Any]) -> list[dict[str, Any]]:
    """Return the prompts on the page of these results."""
    prompts: list[dict[str, Any]] = json.loads(json.dumps(payload(sweep_of(results), "")[0], allow_nan=False))[
        "prompts"
    ]
    return prompts


def test_a_page_holds_what_the_file_says(tmp_path: Path) -> None:
    path = reports.save_results_json([{"prompt": "?", "results": [ours("normal", None, 0), OURS]}], tmp_path / "a.json")
    page = reports.generate_multi_prompt_html_visualization(reports.load_results_json(path), tmp_path / "page.html")
    data = content_of(page)
    run = data["prompts"][0]["runs"][1]
    numbers = dict(zip((metric["key"] for metric in data["metrics"]), run["m"], strict=True))
    assert (data["layers"], list(data["kinds"])) == (["5", "10", "15", "20", "25", "29 (final)"], ["core"])
    assert data["configurations"][1]["key"] == "unfrozen/kl/0.5"
    said = {"n_tokens": 6, "exit_rate": 0.5, "mean_depth": 0.6, "accuracy_score": 7.5, "score_coherence": 7}
    worked_out = {"tokens_until_difference": 6, "equal_share": 1, "lcs_share": 1, "distinct_2": 1, "longest_loop": 0}
    assert numbers == numbers | said | worked_out
    assert numbers.keys().isdisjoint({"perplexity", "disagreement"}), "the file doesn't say"
    assert run["counts"] == [3, 0, 0, 0, 0, 3]
    assert run["notes"] == [["Scores", "coherence 7, accuracy 8"], ["Evaluation", "Fine."]]
    text = ["a", "b", "<i>"], [5, 10, 29]
    html = reports.create_html_visualization(*text, title="A <b>text</b>", output_file=tmp_path / "o")
    assert "<b>text" not in html == (tmp_path / "o").read_text(encoding="utf-8")
    data = json.loads(blob(html, "payload"))
    assert (data["layers"], data["prompts"][0]["runs"][0]["n"]) == (["5", "10", "29 (final)"], 3)


@pytest.mark.parametrize("missing", [*OURS, *sorted(OURS["evaluation"])])
def test_a_result_or_its_evaluation_may_lack_any_key(missing: str) -> None:
    evaluation = {key: value for key, value in OURS["evaluation"].items() if key != missing}
    left = {key: value for key, value in (OURS | {"evaluation": evaluation}).items() if key != missing}
    (run,) = prompts_of([{"prompt": "?", "results": [left]}])[0]["runs"]
    assert run["n"] == (0 if missing in ("evaluation", "tokens", "chosen_exit_layers") else 6)


def test_next_to_nothing_still_renders_and_another_file_is_refused_by_name(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"early_exit_stats": None, "scores": None, "exitable_layers": None}
    one = {"prompt": "?", "results": [{"mode": "m", "kl_factor": "1.0", "evaluation": None}, None]}
    entries: list[dict[str, Any]] = [{}, {"prompt": None, "results": None}, {"results": [{}]}, one]
    for entry in (*entries, {"results": [{"evaluation": nothing}]}):
        assert len(prompts_of([entry])) == 1
    assert prompts_of([]) == []
    for content in ("{", "{}", "[1]"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(reports.NotASweepError, match=r"other\.json"):
            reports.load_results_json(tmp_path / "other.json")


# A file by another program, compared with its own numbers. `exitable_layers` ends with the final layer, 27,
# `layer_distribution` counts early exits only, and `chosen_exit_layers` has 27 for tokens that exit there.
LISTED = [5, 10, 15, 20, 25, 27]
N_LAYERS, N_TOKENS = 28, 26
GRID = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0.5, 2.0))]
EARLY = "unfrozen/kl/0.5"


def result(mode: str, k: float | None, normal: list[str]) -> dict[str, Any]:
    early, same = (0.0, N_TOKENS) if k is None else (0.3 / k, 3 * k)
    chosen = [27 if DRAW.random() > early else int(DRAW.choice(LISTED[:-1])) for _ in range(N_TOKENS)]
    tokens = [word if i < same else f" w{DRAW.integers(9)}" for i, word in enumerate(normal)]
    counts = Counter(layer for layer in chosen if layer != 27)
    evaluation = {
        "scores": {"coherence": int(DRAW.integers(1, 10)), "task completion": int(DRAW.integers(1, 10))},
        "accuracy_score": float(DRAW.uniform(1, 10)),
        "early_exit_stats": {
            "total_tokens": N_TOKENS, "early_exits": counts.total(), "early_exit_rate": counts.total() / N_TOKENS,
            "layer_distribution": {str(layer): n for layer, n in sorted(counts.items())},
        },
        "chosen_exit_layers": chosen, "tokens": tokens, "exitable_layers": LISTED,
    }  # fmt: skip
    return {"mode": mode, "kl_factor": k, "response": "".join(tokens), "evaluation": evaluation}


DRAW = np.random.default_rng(5)
RESULTS: list[dict[str, Any]] = [
    {"prompt": f"Question {prompt}?", "results": [result(*its, normal) for its in GRID]}
    for prompt in range(6)
    for normal in [[f" w{n}" for n in DRAW.integers(0, 9, N_TOKENS)]]
]
SWEEP = sweep_of(RESULTS)


ITS = [entry["results"][1]["evaluation"] for entry in RESULTS]  # the evaluations of EARLY


def share_at(layer: int) -> float:
    return float(np.mean([its["chosen_exit_layers"].count(layer) / N_TOKENS for its in ITS]))


def test_exits_and_means_are_those_of_the_file() -> None:
    assert (SWEEP.exitable_layers, SWEEP.final_layer) == ((5, 10, 15, 20, 25), 27), "the final layer is no exitable one"
    mix = exit_mix(SWEEP)
    assert set(mix["configuration"]) == {configuration.key for configuration in SWEEP.configurations}
    shares = mix[mix["configuration"] == EARLY]["share"]
    np.testing.assert_allclose(shares, [share_at(layer) for layer in LISTED])
    row = per_configuration(SWEEP).set_index("configuration").loc[EARLY]
    layers = [its["chosen_exit_layers"] for its in ITS]
    assert row["exit_rate"] == pytest.approx(np.mean([its["early_exit_stats"]["early_exit_rate"] for its in ITS]))
    assert row["layers_skipped"] == pytest.approx(1 - (np.mean(layers) + 1) / N_LAYERS)
    assert row["score_coherence"] == pytest.approx(np.mean([its["scores"]["coherence"] for its in ITS]))
    assert row["equal_share"] < 1
    assert row[["perplexity", "disagreement"]].isna().all(), "the file doesn't say"
    depth = depth_by_position(SWEEP)
    one = depth[depth["configuration"] == EARLY].set_index("position")["depth"]
    binned = pd.DataFrame(layers).T.groupby(lambda i: i // int(depth["width"].iloc[0])).mean().mean(axis=1)
    np.testing.assert_allclose(one, (binned + 1) / N_LAYERS)


def test_everything_that_the_file_allows_is_charted_and_shown(visit: Visit, tmp_path: Path) -> None:
    charts = drawn(SWEEP)
    assert list(charts) == ["quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth"]
    measures = [variant["y"] for variant in charts["quality"]["variants"]]
    assert measures[:3] == ["Accuracy score", "Score: coherence", "Score: task completion"]
    assert "Fidelity" in measures
    path = reports.generate_multi_prompt_html_visualization(RESULTS, tmp_path / "page.html")
    page = all_drawn(visit("#/?open=all", path))
    assert min(ink_of(chart) for chart in page.locator(".chart").all()) > 50
    assert "null" not in page.locator("main").inner_text()
    page.goto(page.url.split("#")[0] + f"#/p/0/{EARLY}")
    page.get_by_role("heading", name=f"{EARLY} on prompt 0").wait_for()
    assert page.locator(".legend li").all_inner_texts()[-1].startswith("27 (final)")


def changed(**change: Any) -> list[dict[str, Any]]:
    """Return the entries with some keys of every evaluation changed, or removed where the value is None."""
    results = copy.deepcopy(RESULTS)
    for run in [run for entry in results for run in entry["results"]]:
        run["evaluation"] = {key: it for key, it in (run["evaluation"] | change).items() if it is not None}
    return results


def test_without_chosen_layers_what_cannot_be_counted_is_absent() -> None:
    """A distribution's early exits are not all tokens, or 3.8 % at layer 5 would become 11.5 %."""
    mix = exit_mix(sweep_of(changed(chosen_exit_layers=None)))
    at_5 = mix[(mix["configuration"] == EARLY) & (mix["exit_layer"] == 5)]["share"].item()
    assert at_5 == pytest.approx(share_at(5))
    stats = {"layer_distribution": {"5": 1}, "early_exit_rate": 0.25}
    sweep = sweep_of(changed(chosen_exit_layers=None, early_exit_stats=stats, scores=None, accuracy_score=None))
    trade = per_configuration(sweep)
    assert (trade["exit_rate"] == 0.25).all()
    assert trade["layers_skipped"].isna().all()
    assert (sweep.scores, drawn(sweep).get("quality")) == ({}, None)


def test_a_first_token_that_statistics_leave_out_was_not_decided() -> None:
    """As in our own files, 25 of 26 tokens are counted, since the first one always exits at the final layer."""
    results = copy.deepcopy(RESULTS[:1])
    run = results[0]["results"][1]["evaluation"]
    run["chosen_exit_layers"][0], run["early_exit_stats"]["total_tokens"] = 27, N_TOKENS - 1
    sweep, early = sweep_of(results), [layer != 27 for layer in run["chosen_exit_layers"][1:]]
    assert sweep.layer_counts[1].sum() == N_TOKENS - 1
    assert sweep.generations.loc[1, "exit_rate"] == pytest.approx(np.mean(early))
    decided = sweep.tokens.to_table().to_pandas().query("run_id == '1'")["decided"]
    assert decided.tolist() == [False] + [True] * (N_TOKENS - 1)


@pytest.mark.parametrize(
    ("chosen", "listed", "n_early", "exitable", "final"),
    [
        *(([5, no_layer], [5, 10], None, (5, 10), None) for no_layer in (-1, None, float("inf"), "inf")),
        ([5, 10, 29], [], None, (5, 10), 29),
        ([5, 10, -1], [], None, (5, 10), None),
        ([29, 29], [], None, (), 29),
        ([5, 10], [5, 10], 2, (5, 10), None),  # a layer that is counted as early is not the final one
    ],
)
def test_the_final_layer_and_exitable_ones_may_be_written_in_several_ways(
    chosen: list[Any], listed: list[int], n_early: int | None, exitable: tuple[int, ...], final: int | None
) -> None:
    stats = {"total_tokens": len(chosen), "early_exits": n_early}
    evaluation: dict[str, Any] = {"chosen_exit_layers": chosen, "exitable_layers": listed, "early_exit_stats": stats}
    evaluation["tokens"] = ["a"] * len(chosen)
    sweep = sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 1, "evaluation": evaluation}]}])
    assert (sweep.exitable_layers, sweep.final_layer) == (exitable, final)
    exits = [layer if layer in (*exitable, final) else None for layer in chosen]
    assert sweep.tokens.to_table()["exit_layer"].to_pylist() == exits
    assert sweep.generations["mean_depth"].isna().all() == (final is None)
    assert sweep.generations.loc[0, "exit_rate"] == pytest.approx(np.mean([layer in exitable for layer in chosen]))
