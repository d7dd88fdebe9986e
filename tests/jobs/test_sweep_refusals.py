"""`python jobs/sweep.py` with invalid input, and the information that it prints without running anything."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from commands import without_steps
from safetensors.torch import load_file, save_file
from sweeping import SCRIPT, sweep, sweep_here
from tiny_models import tiny_model
from transformers import LlamaForCausalLM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "foo"], "error: unknown mode 'foo': choose from normal, unfrozen, frozen_residual"),
        (["--prompts", "empty.txt"], "error: empty.txt: holds no prompt"),
        (["--out", "empty.txt/out"], "can't be written to"),
        (["--json", "empty.txt/figures"], "error: --json empty.txt/figures can't be written: give the name of a file"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_nothing(
    environment: dict[str, str], tiny: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").touch()
    done = sweep_here(environment, "--model", tiny, "--out", "out", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    *steps, error = done.stderr.splitlines()
    assert message in error
    assert steps == ["importing Ray"][: len(steps)]
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_a_bucket_that_is_out_of_reach_is_told_within_ten_seconds(environment: dict[str, str], tiny: Path) -> None:
    nobody = "gs://anonymous@bucket/out?scheme=http&endpoint_override=127.0.0.1:9"
    began = time.monotonic()
    done = sweep_here(environment, "--model", tiny, "--out", nobody)
    assert time.monotonic() - began < 10
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"importing Ray\nerror: --out bucket/out can't be written to \(.*\): choose another place\n", done.stderr
    )


@pytest.mark.usefixtures("no_ray_yet")
def test_a_model_without_a_tokenizer_is_refused_before_ray_starts(environment: dict[str, str], tmp_path: Path) -> None:
    tiny_model("qwen2").save_pretrained(tmp_path / "model")
    done = sweep_here(environment, "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    *steps, error = done.stderr.splitlines()
    assert error.startswith(f"error: model {tmp_path / 'model'} has no tokenizer that can be loaded: see that ")
    assert "starting Ray" not in steps
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("no_ray_yet")
def test_bad_input_that_is_found_while_ray_starts_ends_ray_too(
    environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")  # of which nothing is known yet
    done = sweep_here(environment, "--model", folder, "--out", tmp_path / "out", "--exit-layers", "2", "6")
    assert done.returncode == 2, done.stderr
    *steps, error = done.stderr.splitlines()
    assert error.startswith("error: exit layer 6 is not below the final layer")
    assert steps == ["importing Ray", "looking at the model", "starting Ray"]
    assert not ray.is_initialized()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.fixture
def boundless(tiny: Path, tmp_path: Path) -> Path:
    """The small model as one whose texts may be as long as they like."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**12}))
    return folder


@pytest.mark.usefixtures("ray_here")
def test_weights_that_only_an_actor_sees_are_told_as_other_bad_input_and_leave_nothing(
    environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    flags: list[str | Path] = ["--model", folder, "--dtype", "float32", "--exit-every", "2", "--out", tmp_path / "out"]
    done = sweep_here(environment, *flags, "--device", "cpu")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: model {folder}: 1 of the 2,048 numbers of model.layers.2.mlp.up_proj.weight are NaN or infinite in "
        "float32: get the checkpoint again, or try another --dtype"
    )
    assert not (tmp_path / "out").exists()


def test_a_relative_out_is_refused_where_ray_would_remove_it(environment: dict[str, str], tmp_path: Path) -> None:
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}})}
    done = sweep_here({**environment, **job}, "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "--out out is relative, and this job's working directory is a copy that Ray removes" in done.stderr


def test_it_says_what_it_does_before_it_imports_what_takes_seconds(tiny: Path, tmp_path: Path) -> None:
    """The process ends with its first line, and says which of the large libraries it had imported by then."""
    script = """if True:
        import os, sys
        from jobs.sweep import main

        class First:
            def write(self, text):
                print(text, sorted({"ray", "torch", "transformers", "pandas"} & set(sys.modules)), flush=True)
                os._exit(0)

            def isatty(self):
                return False

        sys.stderr = First()
        main(sys.argv[1:])
    """
    command = [sys.executable, "-c", script, "--model", str(tiny), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=SCRIPT.parents[1], capture_output=True, text=True)
    assert done.stdout == "importing Ray []\n"


def test_the_driver_imports_no_torch(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny), "--out", str(tmp_path / "out"), "--dry-run"]
    program = (
        "import runpy, sys\n"
        f"sys.argv = {[str(SCRIPT), *flags]}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False")


def test_the_plan_can_be_shown_alone(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--model", tiny, "--dtype", "float32", "--rows-per-shard", "10", "--exit-every", "2"]
    done = sweep_here(environment, "--dry-run", *flags, "--out", "s3://an-id:a-secret@bucket/x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "runs            27 = 3 prompts × 9 configurations × 1 seed" in said
    assert f"model           {tiny} (LlamaForCausalLM, 7 layers, float32)" in said
    assert f"prompts         3 from {SCRIPT.parent / 'sweeps' / 'demo.toml'}" in said
    assert 'system prompt   "You are a helpful programming tutor."' in said
    assert "prefiller       none" in said
    assert "control tokens  plain text in prompts" in said
    assert "recorded        the 3 likeliest tokens of each layer" in said
    assert "exit layers     2 4 (the final one is 6)" in said
    assert "next token      greedy" in said
    assert "shards          about 3 of up to 10 runs" in said
    assert "tokens          up to 2,700 new ones, 100 a run; prompts have about " in done.stdout
    n_parameters = LlamaForCausalLM.from_pretrained(tiny).num_parameters()
    assert f"{4 * n_parameters / 1e6:.1f} MB weights" in done.stdout
    assert "weights         a layer 0.0 MB, the head 0.0 MB" in said
    assert "to fetch        nothing" in said
    assert "out             s3://…@bucket/x" in done.stdout
    assert "a-secret" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_ones_own_prompts_has_no_system_prompt(
    environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text(
        '{"id": "sum-1", "prompt": "one", "answer": "1"}\n{"id": "fact-1", "prompt": "two", "system": "Be brief."}\n'
    )
    flags: list[str | Path] = [
        "--model",
        tiny,
        "--prompts",
        "mine.jsonl",
        "--prefiller",
        "Well, ",
        "--temperature",
        "0.5",
    ]
    done = sweep_here(environment, "--dry-run", "--exit-layers", "1", "3", *flags, cwd=tmp_path)
    said = done.stdout.splitlines()
    assert "prompts         2 from mine.jsonl: 2 kinds, 1 with answers" in said, done.stderr
    assert "system prompt   none; 1 of the prompts have their own" in said
    assert 'prefiller       "Well, "' in said
    assert "exit layers     1 3 (the final one is 6)" in said
    assert "next token      sampled, temperature 0.5, top-p 1" in said
    assert "out             results/sweep" in said
    done = sweep_here(
        environment, "--dry-run", *flags[:4], "--exit-layers", "1", "3", "--seeds", "0", "1", cwd=tmp_path
    )
    counts = "36 = 2 prompts × 9 configurations × 2 seeds; 34 are different, others being the same for every seed"
    assert f"runs            {counts}" in done.stdout, done.stderr


def test_a_file_where_a_folder_of_results_should_be_is_told(
    environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "generations").write_text("odd")
    done = sweep_here(environment, "--model", tiny, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "generations is a file where a folder of results should be: remove it" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith("importing Ray\nerror: ")


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "./nowhere"], "error: "),
        pytest.param(
            ["--device", "mps"],
            "error: --device mps is not there, or this PyTorch was built without it",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="it may be there"),
        ),
    ],
)
def test_where_nothing_ran_nothing_is_left(
    environment: dict[str, str], boundless: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    _refused_and_nothing_left(environment, boundless, tmp_path, flags, message)


@pytest.mark.usefixtures("local_ray")
def test_what_no_node_has_the_memory_for_is_refused_by_what_nodes_have(
    environment: dict[str, str], boundless: Path, tmp_path: Path
) -> None:
    flags = ["--max-new-tokens", "1000000000"]
    message = "error: a run of up to 1,000,000,000 new tokens may need "
    _refused_and_nothing_left(environment, boundless, tmp_path, flags, message)


def _refused_and_nothing_left(
    environment: dict[str, str], boundless: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    (tmp_path / "out").mkdir()
    done = sweep_here(environment, "--model", boundless, "--out", tmp_path / "out", *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(message), done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_node_that_will_never_join_is_not_waited_for(
    environment: dict[str, str], boundless: Path, tmp_path: Path
) -> None:
    done = sweep(
        environment, "--model", boundless, "--out", tmp_path / "out", "--gpus-per-actor", "1000", "--actors", "1"
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: no node can hold an actor of 1 CPUs and 1000 GPUs (there is a node of ")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_whose_runs_are_all_errors_says_so(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 300)
    done = sweep_here(environment, "--model", tiny, "--prompts", tmp_path / "long.txt", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("all 9 runs are errors, such as: the prompt has 300 tokens")
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.usefixtures("ray_here")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_from_the_start_is_told(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(out)], capture_output=True).returncode:
        pytest.skip("this place mounts nothing")
    try:
        (out / "full").write_bytes(b"x" * 4096)
        done = sweep_here(environment, "--model", tiny, "--out", out)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)
    assert done.returncode == 1
    assert without_steps(done.stderr).startswith(f"stopped: [Errno 28] No space left on device: '{out}/")
    assert "Traceback" not in done.stderr


def test_code_that_comes_with_a_model_runs_only_when_asked_for(
    environment: dict[str, str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the place of such code is added
    folder = shutil.copytree(tiny, tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "odd.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig\n"
        "class OddConfig(LlamaConfig):\n    model_type = 'odd'\n"
    )
    config = json.loads((folder / "config.json").read_text())
    odd = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(config | odd))
    flags: list[str | Path] = ["--model", folder, "--out", tmp_path / "out", "--dry-run"]
    done = sweep_here(environment, *flags)
    assert done.returncode == 2
    assert "can't be loaded" in done.stderr
    assert not ran.exists()
    sweep_here(environment, *flags, "--trust-remote-code")
    assert ran.exists()
