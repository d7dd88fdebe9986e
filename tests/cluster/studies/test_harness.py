"""A grid of configurations on tasks of the lm-evaluation-harness, on Ray: what lands, and what is told."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from byte_model import save_byte_model
from commands import here, refusal
from driving import look_here
from own_tasks import CHOICE, WORDS, save_task, save_tasks

from cluster.studies import harness as evaluating
from cluster.studies.harness import evaluate_on_tasks
from eexit.results.layout import MANIFEST, Manifest, encode
from eexit.results.seals import encode_sealed
from eexit.results.store.folder import open_store
from eexit.results.study_tables import SCORES
from eexit.studies.harness import plan as harness_plan
from eexit.studies.harness.plan import find_here
from jobs import harness


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    save_byte_model(folder, ends=True)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tasks(tmp_path_factory.mktemp("tasks"), CHOICE, WORDS)


@pytest.fixture(autouse=True)
def _looks_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has torch anyway."""
    monkeypatch.setattr(evaluating, "evaluate_on_tasks", partial(evaluate_on_tasks, look=look_here, find=find_here))


@pytest.mark.usefixtures("ray_here")
def test_a_grid_lands_as_the_harness_writes_it_and_as_a_table(model: Path, tasks: Path, tmp_path: Path) -> None:
    """One task can't be done, and another kills the process that does it: the others land all the same."""
    save_task(tmp_path, WORDS, "beams", generation_kwargs={"num_beams": 3, "max_gen_toks": 9})
    save_task(tmp_path, CHOICE, "deadly", doc_to_text="!function deadly.die")
    deadly = tmp_path / "deadly.yaml"
    deadly.write_text(deadly.read_text().replace('"!function deadly.die"', "!function deadly.die"))
    (tmp_path / "deadly.py").write_text(
        "import os, ray\n\n\ndef die(doc):\n    return os._exit(1) if ray.get_runtime_context().actor else 'Q'\n"
    )
    out, common = tmp_path / "out", ("--model", model, "--dtype", "float32", "--exit-layers", "2", "4")
    grid = ("--mode", "normal", "frozen_residual", "--rule", "confidence=0.2")
    done = here(harness.main, *common, *grid, "--tasks", tasks, tmp_path / "beams.yaml", deadly, "--out", out)
    assert done.returncode == 1, done.stderr
    assert (
        "4 evaluations failed, such as beams, normal, seed 0: UsageError: the task's generation_kwargs have num_beams=3"
        in (done.stderr)
    )
    assert "deadly, frozen_residual/confidence/0.2, seed 0 failed: the process that did it died" in done.stderr
    assert f'pd.read_parquet("{out}/scores")' in done.stdout
    table = pd.read_parquet(out / "scores")
    assert table.columns.tolist() == SCORES.schema.names
    assert sorted(set(zip(table.configuration, table.task, table.metric, strict=True))) == [
        (key, task, metric)
        for key in ("frozen_residual/confidence/0.2", "normal")
        for task, metric in ((CHOICE, "acc"), (CHOICE, "acc_norm"), (WORDS, "exact_match"))
    ]
    assert (set(table.n), set(table.version), set(table.n_shot), set(table["filter"])) == ({5}, {"1.5"}, {0}, {"none"})
    depth = table.groupby("configuration").mean_depth.max()
    assert depth["normal"] == 1 > depth["frozen_residual/confidence/0.2"] > 0
    for key in ("normal", "frozen_residual__confidence__0.2"):
        [choice, _] = sorted((out / "harness" / key).glob("results_*.json"), key=lambda path: path.stat().st_mtime_ns)
        results = json.loads(choice.read_text())
        row = table[table.configuration.eq(key.replace("__", "/")) & table.metric.eq("acc")].iloc[0]
        assert results["results"][CHOICE]["acc,none"] == row.value
        assert results["results"][CHOICE]["acc_stderr,none"] == row.stderr
        assert results["config"]["model_args"]["configuration"] == row.configuration
        [samples] = (out / "harness" / key).glob(f"samples_{CHOICE}_*.jsonl")
        assert len(samples.read_text().splitlines()) == 5
        assert [line.split()[0] for line in done.stdout.splitlines() if f" {CHOICE} " in line and " acc " in line]
    again = here(harness.main, *common, *grid, "--tasks", tasks, "--out", out)
    assert again.returncode == 0
    assert "4 evaluations landed before" in again.stderr
    assert "actor" not in again.stderr
    assert not table.first_token_exits.any()
    exiting = ("--tasks", tasks / f"{CHOICE}.yaml", "--first-token-exits", "--out", out)
    other = here(harness.main, *common, "--mode", "frozen_residual", "--rule", "confidence=0.2", *exiting)
    assert other.returncode == 0
    assert "landed before" not in other.stderr
    both = pd.read_parquet(out / "scores")
    added = both[both.first_token_exits]
    assert len(both) == len(table) + len(added)
    assert set(added.task) == {CHOICE}
    *_, last = sorted((out / "harness/frozen_residual__confidence__0.2").glob("results_*.json"))
    assert json.loads(last.read_text())["config"]["model_args"]["first_token_exits"] is True


def test_a_flipped_bit_in_scores_is_found_and_what_they_held_is_left_to_do(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    sound, damaged = (SCORES.file(digit * 32) for digit in "ab")
    content = encode_sealed(SCORES.schema.empty_table())
    store.publish(sound, content)
    store.publish(damaged, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    [(name, folder)] = SCORES.set_damaged_aside(store)
    assert (store.read(sound), store.has(damaged)) == (content, False)
    assert name == damaged
    assert folder.startswith("damaged/")
    assert store.has(f"{folder}/{damaged}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--tasks are missing: name some, such as arc_easy"),
        (["--tasks", "x", "--rules", "confidnce=0.9"], "unknown rule 'confidnce': did you mean confidence? (--rules)"),
        (["--tasks", "x", "--limit", "0"], "limit must be > 0, got 0 (--limit)"),
        (["--tasks", "x", "--max-new-tokens", "5"], "unrecognized arguments: --max-new-tokens 5"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line(arguments: list[str], message: str) -> None:
    assert message in refusal(harness.main, *arguments)


def test_a_missing_harness_and_another_model_s_sweep_are_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness_plan, "find_spec", lambda name: None)
    asked = (harness.main, "--model", model, "--tasks", CHOICE, "--out", tmp_path)
    assert refusal(*asked) == "error: the lm-evaluation-harness is not installed: pip install 'eexit[lm-eval]'"
    monkeypatch.undo()
    manifest = Manifest(config={"model": "another"}, model={}, exitable_layers=[2])
    (tmp_path / MANIFEST).write_bytes(encode(manifest))
    said = f"error: --out {tmp_path} holds a sweep of another, and --model is {model}: give another folder"
    assert refusal(*asked) == said
    changed = Manifest(config={"model": str(model)}, model={"weights": "others"}, exitable_layers=[2])
    (tmp_path / MANIFEST).write_bytes(encode(changed))
    assert "holds a sweep of this model as it was before (model." in refusal(*asked)
