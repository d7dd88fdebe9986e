"""The original file format: writing and reading it, files with missing keys, and the original functions."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reports import (
    NotASweepError,
    create_html_visualization,
    generate_multi_prompt_html_visualization,
    load_results_json,
    save_results_json,
)
from reports.page.payload import payload
from reports.read.original_sweep import sweep_of

TOKENS = ["Re", "cursion", " is", " é", "\ud83d", "</script>"]
RESULTS: list[dict[str, Any]] = [
    {
        "prompt": "Explain recursion.",
        "results": [
            {
                "mode": mode,
                "kl_factor": k,
                "response": "".join(TOKENS),
                "evaluation": {
                    "response": "".join(TOKENS),
                    "scores": {"coherence": 7, "accuracy": 8},
                    "accuracy_score": 7.5,
                    "early_exit_stats": {
                        "total_tokens": 6,
                        "early_exits": early,
                        "early_exit_rate": early / 6,
                        "layer_distribution": {"5": early, "29": 6 - early},
                        "usage": None,
                    },
                    "evaluation_text": "Fine.",
                    "chosen_exit_layers": [5] * early + [29] * (6 - early),
                    "tokens": TOKENS,
                    "exitable_layers": [5, 10, 15, 20, 25],
                },
            }
            for mode, k, early in (("normal", None, 0), ("unfrozen", 0.5, 3))
        ],
    }
]


def drawn(results: list[Any]) -> dict[str, Any]:
    """Return the data of the page."""
    data: dict[str, Any] = json.loads(json.dumps(payload(sweep_of(results), "")[0], allow_nan=False))
    return data


def given(page: str) -> dict[str, Any]:
    found = re.search(r'id="blob-payload">([^<]*)</script>', page)
    assert found
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return data


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = save_results_json(RESULTS, tmp_path / "early_exit_analysis.json")
    assert load_results_json(path) == RESULTS


def test_a_page_holds_what_the_file_says(tmp_path: Path) -> None:
    page = generate_multi_prompt_html_visualization(RESULTS, tmp_path / "page.html")
    data = given(page.read_text(encoding="utf-8"))
    run = data["prompts"][0]["runs"][1]
    numbers = dict(zip((metric["key"] for metric in data["metrics"]), run["m"], strict=True))
    assert data["layers"] == ["5", "10", "15", "20", "25", "29 (final)"]
    assert data["configurations"][1]["key"] == "unfrozen/kl/0.5"
    said = {"n_tokens": 6, "exit_rate": 0.5, "mean_depth": 0.6, "accuracy_score": 7.5, "score_coherence": 7}
    worked_out = {"tokens_until_difference": 6, "equal_share": 1, "lcs_share": 1, "distinct_2": 1, "longest_loop": 0}
    assert numbers == numbers | said | worked_out
    assert numbers.keys().isdisjoint({"perplexity", "disagreement"}), "the file doesn't say"
    assert run["counts"] == [3, 0, 0, 0, 0, 3]
    assert run["notes"] == [["Scores", "coherence 7, accuracy 8"], ["Evaluation", "Fine."]]
    assert list(data["kinds"]) == ["core"]


@pytest.mark.parametrize("missing", ["mode", "kl_factor", "response", "evaluation"])
def test_a_result_may_lack_any_key(missing: str) -> None:
    result = {key: value for key, value in RESULTS[0]["results"][1].items() if key != missing}
    data = drawn([{"prompt": "?", "results": [result]}])
    assert len(data["prompts"][0]["runs"]) == 1


@pytest.mark.parametrize("missing", sorted(RESULTS[0]["results"][1]["evaluation"]))
def test_an_evaluation_may_lack_any_key(missing: str) -> None:
    result = RESULTS[0]["results"][1]
    evaluation = {key: value for key, value in result["evaluation"].items() if key != missing}
    data = drawn([{"prompt": "?", "results": [result | {"evaluation": evaluation}]}])
    assert data["prompts"][0]["runs"][0]["n"] == (0 if missing in ("tokens", "chosen_exit_layers") else 6)


@pytest.mark.parametrize(
    "results",
    [
        [],
        [{}],
        [{"prompt": None, "results": None}],
        [{"results": [{}]}],
        [{"prompt": "?", "results": [{"mode": "m", "kl_factor": "1.0", "evaluation": None}, None]}],
        [{"results": [{"evaluation": {"early_exit_stats": None, "scores": None, "exitable_layers": None}}]}],
    ],
)
def test_next_to_nothing_still_renders(results: list[Any]) -> None:
    assert len(drawn(results)["prompts"]) == len(results)


@pytest.mark.parametrize("final", [-1, None, float("inf"), "inf"])
def test_the_final_layer_may_be_written_without_its_number(final: Any) -> None:
    evaluation = {"tokens": ["a", "b"], "chosen_exit_layers": [5, final], "exitable_layers": [5, 10]}
    sweep = sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 1, "evaluation": evaluation}]}])
    assert sweep.exitable_layers == (5, 10)
    assert sweep.final_layer is None
    assert sweep.tokens.to_table()["exit_layer"].to_pylist() == [5, None]


@pytest.mark.parametrize(
    ("chosen", "exitable", "final"),
    [([5, 10, 29], (5, 10), 29), ([5, 10, -1], (5, 10), None), ([29, 29], (), 29)],
)
def test_exitable_layers_that_are_not_named_are_those_that_occur(
    chosen: list[int], exitable: tuple[int, ...], final: Any
) -> None:
    evaluation = {"tokens": ["a"] * len(chosen), "chosen_exit_layers": chosen}
    sweep = sweep_of([{"prompt": "?", "results": [{"mode": "unfrozen", "kl_factor": 1, "evaluation": evaluation}]}])
    assert (sweep.exitable_layers, sweep.final_layer) == (exitable, final)


@pytest.mark.parametrize("content", ["{", "{}", "[1]"])
def test_another_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(NotASweepError, match=r"other\.json"):
        load_results_json(path)


def test_one_text_is_drawn_too(tmp_path: Path) -> None:
    page = create_html_visualization(
        ["a", "b", "<i>"], [5, 10, 29], title="One <b>text</b>", output_file=tmp_path / "o.html"
    )
    assert "<b>text" not in page
    assert (tmp_path / "o.html").read_text(encoding="utf-8") == page
    assert given(page)["layers"] == ["5", "10", "29 (final)"]
    assert given(page)["prompts"][0]["runs"][0]["n"] == 3
