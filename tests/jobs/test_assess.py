"""`eexit assess` with input that can't be used: one line, and nothing is written."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from byte_model import save_exiting_model
from commands import here

from cluster.assessment.prompt_splits import CONFIDENCE, CONFIDENCE_OF_A_SMOKE_RUN, sizes_at, split
from eexit.errors import UsageError
from eexit.plan.prompt_kinds.generators import draw_prompts
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.risk_tests import prompts_without_loss
from jobs.assess import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--prompts few.jsonl", "20 prompts are too few: .* without any loss takes 151; 537 are enough, or a higher "),
        ("--prompts few.jsonl --quick", "a setting without any loss takes 37"),
        ("--max-risk 0", "--max-risk must be above 0 and below 1, as in 0.02, got 0"),
        ("--max-risk 0.0001", "prompts: give a higher --max-risk"),
        ("--prompts more.jsonl --max-risk 0.3 --batch 32", "of 32 takes 64; .* are enough, or a --batch below 32"),
        ("--max-new-tokens 1", "--max-new-tokens must be at least 3"),
        ("--dtype int4", "unknown dtype 'int4': choose from"),
        ("--exit-layers 23 23", r"must be strictly increasing, got 23,23 \(--exit-layers\)"),
        ("--model one two --revision main", "--revision is of one model, and --model names several"),
        ("--model a/one b/one --out both", "two models would have the folder one of --out"),
        ("--model one two --out assessed", "--out assessed is an assessment of one model"),
        ("--out=", "--out is empty: give a folder"),
        ("--out s3://bucket/assess", "--out s3://bucket/assess is a URI: give a folder"),
        ("--out few.jsonl", "few.jsonl is a file: give a folder"),
        ("--model tiny --exit-layers 2 --out foreign", "verdict.json is no verdict of this version"),
        ("--out results/mine", "--out results/mine is relative, and this job's working directory is a copy"),
    ],
)
def test_bad_input_ends_with_one_line_alone(tmp_path: Path, monkeypatch: Any, arguments: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    few: list[dict[str, Any]] = [{"prompt": each.prompt, "answer": each.answer} for each in draw_prompts(20, 0)]
    for name, prompts in {"few": few, "more": [{"prompt": f"word {number}"} for number in range(60)]}.items():
        Path(f"{name}.jsonl").write_text("\n".join(json.dumps(each) for each in prompts))
    if "tiny" in arguments:
        save_exiting_model(tmp_path / "tiny", n_layers=4)
    for name in ("assessed/assessment.json", "foreign/verdict.json"):
        Path(name).parent.mkdir()
        Path(name).write_text('{"pays": "me"}')
    if "mine" in arguments:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://a"}}))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = here(main, *arguments.split(), "--dry-run")
    assert done.returncode == 2
    assert re.search(f"(?m)^error: .*{message}", done.stderr)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_each_of_several_models_has_a_folder_of_its_own_and_all_are_checked_first(tmp_path: Path) -> None:
    """Trust in a model's code reaches every command that loads the model, once."""
    models = [tmp_path / name for name in ("one", "the other")]
    for folder in models:
        save_exiting_model(folder, n_layers=4)
    flags = ["--exit-layers", "1", "2", "--dry-run", "--out"]
    lines = here(main, "--model", *models, *flags, tmp_path / "out", "--trust-remote-code").stdout.splitlines()
    assert len(lines) == 22
    for folder, (first, *commands) in zip(models, (lines[:11], lines[11:]), strict=True):
        assert first.startswith(f"{folder} · ")
        for words in map(shlex.split, commands):
            assert any(word.startswith(f"{tmp_path / 'out' / folder.name}/") for word in words)
            assert words.count("--trust-remote-code") == int(words[1] != "choose")
    assert "nowhere" in here(main, "--model", models[0], "nowhere", *flags, tmp_path / "b").stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("is_smoke_run", [False, True])
def test_as_many_prompts_as_are_advised_are_enough(is_smoke_run: bool) -> None:
    whole = sizes_at(0.1)
    least = prompts_without_loss(0.1, alpha_share(CONFIDENCE_OF_A_SMOKE_RUN if is_smoke_run else CONFIDENCE))
    with pytest.raises(UsageError, match="are enough") as refused:
        split(draw_prompts(20, 0), whole, least, is_smoke_run)
    [n] = re.findall(r"([\d,]+) are enough", str(refused.value))
    for seed in range(20):
        assert split(draw_prompts(int(n.replace(",", "")), seed), whole, least, is_smoke_run).choosing >= least
