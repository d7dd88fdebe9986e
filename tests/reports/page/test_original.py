"""The original functions: pages of results in the original format, also of files with missing keys."""

import json
from pathlib import Path
from typing import Any

import pytest
from chart_fields import blob, content_of

from eexit.results.original_format import evaluation_of
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


def result(mode: str, k: float | None, early: int) -> dict[str, Any]:
    evaluation = evaluation_of(
        tokens=TOKENS, exit_layers=[5] * early + [29] * (6 - early), exitable_layers=[5, 10, 15, 20, 25],
        decided_at={5: early, 29: 6 - early}, n_prompt_tokens=3, mean_depth=None,
    ) | {"scores": {"coherence": 7, "accuracy": 8}, "accuracy_score": 7.5, "evaluation_text": "Fine."}  # fmt: skip
    return {"mode": mode, "kl_factor": k, "response": "".join(TOKENS), "evaluation": evaluation}


NORMAL, EARLY = result("normal", None, 0), result("unfrozen", 0.5, 3)


def data_of(results: list[Any]) -> dict[str, Any]:
    """Return the data of the page."""
    data: dict[str, Any] = json.loads(json.dumps(payload(sweep_of(results), "")[0], allow_nan=False))
    return data


def test_a_page_holds_what_the_file_says(tmp_path: Path) -> None:
    path = save_results_json([{"prompt": "Explain recursion.", "results": [NORMAL, EARLY]}], tmp_path / "a.json")
    data = content_of(generate_multi_prompt_html_visualization(load_results_json(path), tmp_path / "page.html"))
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


@pytest.mark.parametrize("missing", [*EARLY, *sorted(EARLY["evaluation"])])
def test_a_result_or_its_evaluation_may_lack_any_key(missing: str) -> None:
    evaluation = {key: value for key, value in EARLY["evaluation"].items() if key != missing}
    left = {key: value for key, value in (EARLY | {"evaluation": evaluation}).items() if key != missing}
    (run,) = data_of([{"prompt": "?", "results": [left]}])["prompts"][0]["runs"]
    assert run["n"] == (0 if missing in ("evaluation", "tokens", "chosen_exit_layers") else 6)


@pytest.mark.parametrize(
    "results",
    [
        [], [{}], [{"prompt": None, "results": None}], [{"results": [{}]}],
        [{"prompt": "?", "results": [{"mode": "m", "kl_factor": "1.0", "evaluation": None}, None]}],
        [{"results": [{"evaluation": {"early_exit_stats": None, "scores": None, "exitable_layers": None}}]}],
    ],
)  # fmt: skip
def test_next_to_nothing_still_renders(results: list[Any]) -> None:
    assert len(data_of(results)["prompts"]) == len(results)


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
    data = json.loads(blob(page, "payload"))
    assert (data["layers"], data["prompts"][0]["runs"][0]["n"]) == (["5", "10", "29 (final)"], 3)
