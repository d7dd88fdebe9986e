from pathlib import Path
from typing import Any

import pytest

from eexit.results.original_format import entry_of_text, evaluation_of, prompts_of, read, results_of, write

EVALUATION: dict[str, Any] = evaluation_of(
    tokens=["Re", "cur", "sion", "!"], exit_layers=[29, 5, 29, 5], exitable_layers=[5, 10],
    decided_at={5: 2, 10: 0, 29: 1}, n_prompt_tokens=7, mean_depth=0.4,
)  # fmt: skip
ENTRY = {
    "prompt": "Explain recursion.",
    "results": [{"mode": "unfrozen", "kl_factor": 0.5, "response": "Recursion!", "evaluation": EVALUATION}],
}


def test_an_evaluation_has_the_original_shape_and_what_was_written_is_read(tmp_path: Path) -> None:
    stats = {"total_tokens": 3, "early_exits": 2, "early_exit_rate": 2 / 3}
    assert {
        "response": "Recursion!", "scores": None, "accuracy_score": None, "evaluation_text": "",
        "chosen_exit_layers": [29, 5, 29, 5], "tokens": ["Re", "cur", "sion", "!"], "exitable_layers": [5, 10],
        "early_exit_stats": {
            **stats, "layer_distribution": {"5": 2, "29": 1},
            "usage": {"prompt_tokens": 7, "completion_tokens": 4, "mean_depth": 0.4},
        },
    } == EVALUATION  # fmt: skip
    write([ENTRY, entry_of_text("alone", ["a"], [5], [])], tmp_path / "early_exit_analysis.json")
    entries = read(tmp_path / "early_exit_analysis.json")
    assert prompts_of(entries) == ["Explain recursion.", "alone"]
    result, alone = results_of(entries)
    assert vars(result) == {
        **{name: EVALUATION[name] for name in EVALUATION if name != "early_exit_stats"}, "prompt": 0, "scores": {},
        "mode": "unfrozen", "kl_factor": 0.5, "error": None, "layer_distribution": {5: 2, 29: 1}, **stats,
    }  # fmt: skip
    assert (alone.prompt, alone.tokens, alone.chosen_exit_layers, alone.total_tokens) == (1, ["a"], [5], None)


@pytest.mark.parametrize("value", [None, "text", 3, [], {}, float("inf")])
@pytest.mark.parametrize("key", [*EVALUATION, *EVALUATION["early_exit_stats"]])
def test_a_key_may_hold_anything_and_the_others_still_count(key: str, value: Any) -> None:
    stats = EVALUATION["early_exit_stats"]
    odd = EVALUATION | ({"early_exit_stats": stats | {key: value}} if key in stats else {key: value})
    result, *_ = results_of([{"prompt": value, "results": [{"mode": value, "evaluation": odd}, value]}])
    [asis] = results_of([ENTRY])
    changed = {name for name in vars(asis) if getattr(result, name) != getattr(asis, name)} - {"mode", "kl_factor"}
    of_stats = {"total_tokens", "early_exits", "early_exit_rate", "layer_distribution"}
    assert changed <= (of_stats if key == "early_exit_stats" else {key})
