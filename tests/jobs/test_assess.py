"""`python jobs/assess.py` with input that can't be used: one line, before Ray is imported or anything is written."""

import json
from pathlib import Path

import pytest
from commands import refusal

from eexit.plan.prompt_kinds.drawing import draw_prompts
from jobs.assess import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "few.jsonl"], "error: 20 prompts are too few for a margin of 0.02: "),
        (["--prompts", "few.jsonl"], "about 466 would do, or a larger --margin"),
        (["--prompts", "empty.txt"], "error: empty.txt: holds no prompt"),
        (["--margin", "0"], "error: --margin must be above 0 and below 1, as in 0.02, got 0"),
        (["--margin", "0.0001"], "give a larger --margin"),
        (["--minutes", "0"], "error: --minutes must be a number above 0, got 0"),
        (["--minutes", "soon"], "invalid float value: 'soon'"),
        (["--batch", "0"], "must be a whole number above 0, got 0"),
        (["--dtype", "int4"], "error: unknown dtype 'int4': choose from auto, bfloat16, float16, float32"),
        (["--exit-layers", "23", "23"], "exit layers must be strictly increasing, got 23,23 (--exit-layers)"),
        (["--exit-layers", "-1"], "exit_layers must be ≥ 0, got -1 (entry 1 of --exit-layers)"),
        (["--out", "s3://bucket/assess"], "error: --out s3://bucket/assess is a URI: give a folder"),
        (["--out", "few.jsonl"], "few.jsonl is a file: give a folder"),
        (["--out", "broken"], "assessment.json is damaged: remove it, and what is finished of the steps is kept"),
        (["--out", "other"], 'holds another assessment (model: "another" -> "smollm2-135m"): choose another --out'),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"prompt": each.prompt, "answer": each.answer}) for each in draw_prompts(20, 0)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    (tmp_path / "empty.txt").touch()
    begun = {"plans": {"start": 60.0}, "seconds": {}, "finished": [], "remarks": []}
    held = {"format": 1, "asked": {"model": "another"}, **begun}
    for folder, content in {"broken": "{", "other": json.dumps(held)}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "assessment.json").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    assert message in refusal(main, *arguments)
    assert sorted(tmp_path.rglob("*")) == before
