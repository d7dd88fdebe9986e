"""Training on a finished sweep's texts: what lands, what is refused, and going on after an interruption."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import InterruptedWhen, asked_here, flip_a_bit, refusal, success
from driving import land_all, look_here
from pydantic import ValidationError
from references import save_adapter
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from cluster.console.flags_from_config import load_job
from cluster.studies import training
from cluster.studies.training import TrainingJob, train_exits
from eexit.errors import UsageError
from eexit.output.progress import NullDisplay
from eexit.plan import model_inspection
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import ADAPTER, CARD, STATE, WEIGHTS, ArtefactCard, read_card
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.training import loop
from eexit.training.plan import DamagedArtefactError, TrainArgs, TrainingPlan, is_finished, make_training_plan
from eexit.training.texts import chooses, is_held_out, read_texts
from eexit.training.training_table import sweep_command
from jobs import sweep, train

PROMPTS = [f"prompt {number}" for number in range(20)]


def swept(out: Path, model: Path, prompts: list[str], **others: Any) -> Path:
    named = tuple(Prompt(id=prompt, prompt=prompt) for prompt in prompts)
    grid: dict[str, Any] = {"modes": ("normal",), "kl_factors": (), "exit_every": 2, "max_new_tokens": 8, **others}
    return land_all(out, SweepConfig(model=str(model), prompts=named, dtype="float32", **grid))


@pytest.fixture(scope="module")
def texts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert any(map(is_held_out, PROMPTS))
    assert any(map(chooses, PROMPTS))
    return swept(tmp_path_factory.mktemp("texts") / "out", tiny, PROMPTS)


def trained(texts: Path, out: Path, what: str = "linear", **others: Any) -> ArtefactCard:
    display = others.pop("display", NullDisplay())
    return train_exits(str(texts), TrainArgs(what, str(out), options=others), "cpu", display, look_here)


def plan_of(texts: Path, out: Path, what: str = "linear", **options: Any) -> TrainingPlan:
    sweep = read_finished(str(texts), ["prompt_id"])
    return make_training_plan(sweep, TrainArgs(what, str(out), options=options), read_texts(sweep.store), look_here)


def trained_here(texts: Path, out: Path, what: str = "linear", **options: Any) -> ArtefactCard:
    """The same in this process, without Ray."""
    work = TrainingJob(plan_of(texts, out, what, **options))
    out.mkdir()
    work.load("cpu")
    work.training.advance(60)
    return work.training.finish()


@pytest.fixture(scope="module")
def learned(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "linear"
    trained_here(texts, folder)
    return folder


def assert_same_weights(one: Path, other: Path) -> None:
    weights = load_file(other / WEIGHTS)
    for name, tensor in load_file(one / WEIGHTS).items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-4, atol=1e-6)  # another number of threads


@pytest.mark.usefixtures("ray_here")
def test_a_stopped_training_goes_on(texts: Path, tiny: Path, learned: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)  # a block
    monkeypatch.setattr(loop, "BLOCK_TOKENS", 24)
    out = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        trained(texts, out, display=InterruptedWhen(lambda progress: progress.has_begun))
    assert [path.name for path in out.iterdir()] == [STATE]

    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    command = [str(texts), "--what", "linear", "--out", str(out), "--device", "cpu"]
    assert "holds another training (settings.layers: " in refusal(train.main, *command, "--exit-layers", "4")
    done = success(train.main, *command)
    assert "resuming" in done.stderr
    assert re.search(r"linear +[0-9.]+% +[0-9.]+%", done.stdout)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("eexit sweep ")]
    planned, _ = load_job(shlex.split(line)[2:], sweep.DEMO)
    assert (planned.config.model, planned.config.readout) == (str(tiny), str(out))
    assert (planned.config.exit_layers, planned.out) == ((2, 4), f"{out}-sweep")
    assert "nothing is left to do" in success(train.main, *command).stderr
    assert sorted(path.name for path in out.iterdir()) == [CARD, WEIGHTS]
    assert_same_weights(out, learned)


def test_the_card_says_what_was_trained(texts: Path, tiny: Path, learned: Path, tmp_path: Path) -> None:
    linear = read_card(str(learned), "readout")
    assert (linear.what, linear.holds, linear.layers, linear.readout) == ("linear", ("readout",), (2, 4), "lens")
    assert linear.data["n_prompts"] + linear.data["n_held_out_prompts"] == len(PROMPTS)
    assert linear.data["n_held_out_prompts"] == sum(map(is_held_out, PROMPTS))
    assert linear.model == read_finished(str(texts), ["prompt_id"]).manifest.model
    rows = [(row.layer, row.series) for row in linear.table]
    assert rows == [(2, "lens"), (4, "lens"), (2, "linear"), (4, "linear")]
    probe = trained_here(texts, tmp_path / "probe", "probe", readout=str(learned), layers=(4,))
    assert (probe.holds, probe.layers, probe.readout) == (("probe",), (4,), linear.digest)
    assert read_card(str(tmp_path / "probe"), "probe").model_copy(update={"checksum": ""}) == probe

    adapter = save_adapter(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "peft", ("o_proj",))
    card = trained_here(texts, tmp_path / "exits", adapter=adapter)
    assert card.adapter == read_card(adapter, ADAPTER).digest
    assert card.table != linear.table
    line = sweep_command(card, "exits", ["--adapter", adapter])
    assert line.endswith(f" --readout exits --adapter {adapter} --exit-layers 2 4 --out exits-sweep")
    grid: dict[str, Any] = {"model": str(tiny), "prompts": [{"id": "0", "prompt": "?"}], "exit_every": 2}
    reading = {"readout": str(tmp_path / "exits")}
    refuse_misfit(SweepConfig.model_validate({**grid, **reading, "adapter": adapter}), linear.model, [2, 4])
    with pytest.raises(ValidationError, match="was trained on an adapter's hidden states"):
        SweepConfig.model_validate({**grid, **reading})


def test_what_can_not_be_trained_is_told_in_a_line(tiny: Path, texts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    exits = swept(tmp_path / "exits", tiny, PROMPTS[:1], modes=("unfrozen",), kl_factors=(1.0,))
    few = swept(tmp_path / "few", tiny, PROMPTS[:1])
    (tmp_path / "file").touch()
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / CARD).write_text('{"name": "Ada"}')
    refused: list[tuple[Path, str, dict[str, Any], str]] = [
        (texts, "lineal", {}, "--what lineal can't be trained: did you mean linear?"),
        (texts, "linear", {"rules": ("kl/1",)}, "--rules is for gate, and --what is linear: leave it out"),
        (texts, "gate", {}, "a gate is for rules: give --rules"),
        (texts, "linear", {"layers": (2, 9)}, "exit layer 9 is not below the final layer"),
        (texts, "kv-maps", {"adapter": "nowhere"}, "--adapter nowhere is not a folder that is there"),
        (exits, "linear", {}, "has no normal runs with texts to learn from: run a sweep with --modes normal"),
        (few, "linear", {}, "has too few prompts: of its 1 texts"),
        (texts, "linear", {"out": tmp_path / "file"}, "file is a file: give a folder"),
        (texts, "linear", {"out": tmp_path / "ada"}, f"{CARD} is no training's: choose another"),
    ]
    for results, what, given, message in refused:
        with pytest.raises(UsageError, match=rf"^[^\n]*{re.escape(message)}[^\n]*$"):
            trained(results, **{"out": tmp_path / "out", "what": what, **given})
    assert not (tmp_path / "out").exists()


def with_card(out: Path, **fields: Any) -> None:
    (out / CARD).write_text(json.dumps({**json.loads((out / CARD).read_text()), **fields}))


def test_damaged_artefacts_are_unfinished_and_others_left_alone(texts: Path, learned: Path, tmp_path: Path) -> None:
    damages: list[tuple[Callable[[Path], object], dict[str, Any], str]] = [
        (lambda its: flip_a_bit(its / WEIGHTS), {}, f"holds this training's artefact, but {WEIGHTS} is not the file"),
        (lambda its: (its / WEIGHTS).unlink(), {}, f"holds this training's artefact, but {WEIGHTS} is missing"),
        (lambda its: os.truncate(its / CARD, 100), {}, f"holds a {CARD} that can't be read"),
        (lambda its: with_card(its, data="text"), {}, f"holds a {CARD} that can't be read"),
        (lambda its: (its / CARD).unlink(), {}, f"holds {WEIGHTS} without a {CARD}"),
        (lambda its: flip_a_bit(its / WEIGHTS), {"layers": (4,)}, "holds another training (settings.layers: "),
        (lambda its: with_card(its, format=4), {}, "of another version: choose another --out"),
    ]
    assert is_finished(plan_of(texts, learned))
    for at, (change, asked, says) in enumerate(damages):
        out = Path(shutil.copytree(learned, tmp_path / f"{at}"))
        change(out)
        before = {path: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(UsageError, match=re.escape(says)) as raised:
            is_finished(plan_of(texts, out, **asked))
        assert isinstance(raised.value, DamagedArtefactError) == (at < 5), "the last two are of other trainings"
        assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.usefixtures("ray_here")
def test_a_damaged_artefact_is_trained_again(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(learned, tmp_path / "my exits"))
    flip_a_bit(out / WEIGHTS)
    held = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError) as refused:
        read_card(str(out), "readout")
    program, name, *command = shlex.split(str(refused.value).partition("train it again: ")[2])
    assert (program, name) == ("eexit", "train")
    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    done = success(train.main, *command, "--device", "cpu")
    assert f"it is trained again; what is left of it is in {out}/damaged/" in done.stderr
    read_card(str(out), "readout")
    assert_same_weights(out, learned)
    [aside] = (out / "damaged").iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == held
    assert (out / "mine.txt").read_text() == "mine"
