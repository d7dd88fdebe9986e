"""The original functions: pages of results in the original format, of our own and of other programs."""

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
from reports.read.sweep import Sweep
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
    content: dict[str, list[Any]] = json.loads(json.dumps(payload(sweep_of(results), "")[0], allow_nan=False))
    return content["prompts"]


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


def test_a_result_may_lack_any_key_and_another_file_is_refused_by_name(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"early_exit_stats": None, "scores": None, "exitable_layers": None}
    one = {"prompt": "?", "results": [{"mode": "m", "kl_factor": "1.0", "evaluation": None}, None]}
    entries: list[dict[str, Any]] = [{}, {"prompt": None, "results": None}, {"results": [{}]}, one]
    for entry in (*entries, {"results": [{"evaluation": nothing}]}):
        assert len(prompts_of([entry])) == 1
    for missing in OURS["evaluation"]:
        evaluation = {key: value for key, value in OURS["evaluation"].items() if key != missing}
        (run,) = prompts_of([{"prompt": "?", "results": [OURS | {"evaluation": evaluation}]}])[0]["runs"]
        assert run["n"] == (0 if missing in ("tokens", "chosen_exit_layers") else 6)
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


def test_exits_and_means_are_those_of_the_file() -> None:
    evaluations = [entry["results"][1]["evaluation"] for entry in RESULTS]  # of EARLY
    layers = [its["chosen_exit_layers"] for its in evaluations]
    assert (SWEEP.exitable_layers, SWEEP.final_layer) == ((5, 10, 15, 20, 25), 27), "the final layer is no exitable one"
    mix = exit_mix(SWEEP)
    assert set(mix["configuration"]) == {configuration.key for configuration in SWEEP.configurations}
    shares = mix[mix["configuration"] == EARLY]["share"]
    expected = [np.mean([exits.count(layer) / N_TOKENS for exits in layers]) for layer in LISTED]
    np.testing.assert_allclose(shares, expected)
    row = per_configuration(SWEEP).set_index("configuration").loc[EARLY]
    rates = [its["early_exit_stats"]["early_exit_rate"] for its in evaluations]
    assert row["exit_rate"] == pytest.approx(np.mean(rates))
    assert row["layers_skipped"] == pytest.approx(1 - (np.mean(layers) + 1) / N_LAYERS)
    assert row["score_coherence"] == pytest.approx(np.mean([its["scores"]["coherence"] for its in evaluations]))
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


def one_run(**evaluation: Any) -> Sweep:
    return sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 0.5, "evaluation": evaluation}]}])


def test_without_chosen_layers_what_cannot_be_counted_is_absent() -> None:
    """A distribution's early exits are not all tokens, or a token of 26 at layer 5 would become a third."""
    stats: dict[str, Any] = {"total_tokens": 26, "early_exits": 3, "layer_distribution": {"5": 1, "10": 2}}
    text = {"tokens": ["a"] * 26, "exitable_layers": LISTED}
    mix = exit_mix(one_run(**text, early_exit_stats=stats)).set_index("exit_layer")
    assert mix["share"][5] == pytest.approx(1 / 26)
    sweep = one_run(**text, early_exit_stats={"layer_distribution": {"5": 1}, "early_exit_rate": 0.25})
    trade = per_configuration(sweep)
    assert (trade["exit_rate"].item(), trade["layers_skipped"].isna().item()) == (0.25, True)
    assert (sweep.scores, drawn(sweep).get("quality")) == ({}, None)


@pytest.mark.parametrize(
    ("chosen", "listed", "stats", "exitable", "final"),
    [
        *(([5, no_layer], [5, 10], {}, (5, 10), None) for no_layer in (-1, None, float("inf"), "inf")),
        ([5, 10, 29], [], {}, (5, 10), 29),
        ([5, 10, -1], [], {}, (5, 10), None),
        ([29, 29], [], {}, (), 29),
        ([5, 10], [5, 10], {"early_exits": 2}, (5, 10), None),  # a layer that is counted as early is not the final one
        ([29, 5, 29], [5, 29], {"total_tokens": 2}, (5,), 29),  # as in our own files: the first token was not decided
    ],
)
def test_the_final_layer_and_exitable_ones_may_be_written_in_several_ways(
    chosen: list[Any], listed: list[int], stats: dict[str, int], exitable: tuple[int, ...], final: int | None
) -> None:
    stats = {"total_tokens": len(chosen)} | stats
    text = {"tokens": ["a"] * len(chosen), "chosen_exit_layers": chosen, "exitable_layers": listed}
    sweep = one_run(**text, early_exit_stats=stats)
    assert (sweep.exitable_layers, sweep.final_layer) == (exitable, final)
    tokens, undrawn = sweep.tokens.to_table(), len(chosen) - stats["total_tokens"]
    assert tokens["exit_layer"].to_pylist() == [layer if layer in (*exitable, final) else None for layer in chosen]
    assert tokens["decided"].to_pylist() == [i >= undrawn for i in range(len(chosen))]
    assert sweep.generations["mean_depth"].isna().all() == (final is None)
    rate = np.mean([layer in exitable for layer in chosen[undrawn:]])
    assert sweep.generations.loc[0, "exit_rate"] == pytest.approx(rate)
