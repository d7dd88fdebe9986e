"""The plan that `--dry-run` prints."""

from pathlib import Path

import pytest
from sweeping import SCRIPT, sweep_here
from transformers import LlamaForCausalLM


def planned(environment: dict[str, str], cwd: Path, *flags: str | Path) -> dict[str, str]:
    done = sweep_here(environment, "--dry-run", *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {line[:16].strip(): line[16:] for line in done.stdout.splitlines() if line[:1].strip()}


def test_the_plan_is_shown_without_running_anything(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--model", tiny, "--dtype", "float32", "--rows-per-shard", "10", "--exit-every", "2"]
    plan = planned(environment, tmp_path, *flags, "--out", "s3://an-id:a-secret@bucket/x")
    grid = [f"{mode}/kl/{factor:g}" for mode in ("unfrozen", "frozen_residual") for factor in (0.5, 1, 2, 4)]
    weights = f"{4 * LlamaForCausalLM.from_pretrained(tiny).num_parameters() / 1e6:.1f} MB weights"
    assert weights in plan.pop("memory")
    assert plan.pop("tokens").startswith("up to 2,700 new ones, 100 a run; prompts have about ")
    assert plan == {
        "model": f"{tiny} (LlamaForCausalLM, 7 layers, float32)",
        "prompts": f"3 from {SCRIPT.parent / 'sweeps' / 'prompts' / 'demo.jsonl'}",
        "system prompt": '"You are a helpful programming tutor."',
        "prefiller": "none",
        "control tokens": "plain text in prompts",
        "configurations": ", ".join(["normal", *grid]),
        "exit layers": "2 4 (the final one is 6)",
        "readout": "lens",
        "next token": "greedy",
        "recorded": "the 3 likeliest tokens of each layer",
        "seeds": "0",
        "runs": "27 = 3 prompts × 9 configurations × 1 seed",
        "shards": "about 3 of up to 10 runs",
        "weights": "a layer 0.0 MB, the head 0.0 MB",
        "to fetch": "nothing",
        "out": "s3://…@bucket/x",
    }
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_own_prompts_has_no_system_prompt(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(
        '{"id": "sum-1", "prompt": "one", "answer": "1"}\n{"id": "fact-1", "prompt": "two", "system": "Be brief."}\n'
    )
    flags: list[str | Path] = ["--model", tiny, "--prompts", "mine.jsonl", "--exit-layers", "1", "3", "--seeds", "0,1"]
    plan = planned(environment, tmp_path, *flags, "--prefiller", "Well, ", "--temperature", "0.5")
    expected = {
        "prompts": "2 from mine.jsonl: 2 kinds, 1 with answers",
        "system prompt": "none; 1 of the prompts have their own",
        "prefiller": '"Well, "',
        "exit layers": "1 3 (the final one is 6)",
        "next token": "sampled, temperature 0.5, top-p 1",
        "out": "results/sweep",
    }
    assert {name: plan[name] for name in expected} == expected
    counts = "36 = 2 prompts × 9 configurations × 2 seeds; 34 are different, others being the same for every seed"
    assert planned(environment, tmp_path, *flags)["runs"] == counts + " or mode"


@pytest.mark.usefixtures("ray_here")
def test_the_plan_says_by_what_the_results_would_grow(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    flags: list[str | Path] = ["--model", tiny, "--prompts", "mine.txt", "--out", tmp_path / "out", "--kl-factors"]
    assert sweep_here(environment, *flags, "1", "--max-new-tokens", "4", cwd=tmp_path).returncode == 0
    plan = planned(environment, tmp_path, *flags, "2", "--seeds", "1", "--max-new-tokens", "4")
    keys = ("normal", "unfrozen/kl/1", "unfrozen/kl/2", "frozen_residual/kl/1", "frozen_residual/kl/2")
    assert plan["configurations"] == ", ".join(keys)
    assert planned(environment, tmp_path, *flags, "1", "--controls-of", "out", "--out", "x")["controls"] == "of out"
    assert plan["out"] == f"{tmp_path}/out, which grows by 2 configurations and 1 seed: 35 runs more"
