"""`python jobs/assess.py` with input that can't be used: one line, and nothing is written."""

import json
from pathlib import Path

import pytest
from commands import here, refusal
from exiting_models import save_exiting_model

from eexit.plan.prompt_kinds.drawing import draw_prompts
from jobs.assess import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "few.jsonl"], "error: 20 prompts are too few: "),
        (["--prompts", "few.jsonl"], "a setting without any loss takes 151; about 471 would do, or a higher --at-most"),
        (["--prompts", "few.jsonl", "--quick"], "a setting without any loss takes 37"),
        (["--prompts", "empty.txt"], "error: empty.txt: holds no prompt"),
        (["--at-most", "0"], "error: --at-most must be above 0 and below 1, as in 0.02, got 0"),
        (["--at-most", "0.0001"], "prompts: give a higher --at-most"),
        (["--batch", "0"], "must be a whole number above 0, got 0"),
        (["--dtype", "int4"], "error: unknown dtype 'int4': choose from auto, bfloat16, float16, float32"),
        (["--exit-layers", "23", "23"], "exit layers must be strictly increasing, got 23,23 (--exit-layers)"),
        (["--minutes", "35"], "unrecognized arguments: --minutes 35"),
        (["--out", ""], "error: --out is empty: give a folder"),
        (["--out", "s3://bucket/assess"], "error: --out s3://bucket/assess is a URI: give a folder"),
        (["--out", "few.jsonl"], "few.jsonl is a file: give a folder"),
        (["--model", "tiny", "--exit-layers", "2", "--out", "foreign"], "verdict.json is not of an assessment"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"prompt": each.prompt, "answer": each.answer}) for each in draw_prompts(20, 0)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    (tmp_path / "empty.txt").touch()
    if "tiny" in arguments:
        save_exiting_model(tmp_path / "tiny", n_layers=4)
    held = {
        "foreign": ("verdict.json", '{"pays": "me"}'),
    }
    for folder, (name, content) in held.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    done = here(main, *arguments, "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_relative_out_is_refused_in_a_job_whose_folder_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = {"runtime_env": {"working_dir": "gcs://a"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    assert "is relative, and this job's working directory is a copy" in refusal(main, "--out", "results/mine")
