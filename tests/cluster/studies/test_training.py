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
from byte_model import save_byte_model
from commands import asked_here, here, refusal
from driving import land_all, look_here
from pydantic import ValidationError
from references import save_adapter
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from cluster.console.flags_from_config import load_job
from cluster.studies import training
from cluster.studies.training import TrainingJob, train_exits
from eexit.errors import UsageError
from eexit.output.progress import NullDisplay, Progress
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
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    return folder


@pytest.fixture(scope="module")
def texts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert any(map(is_held_out, PROMPTS))
    assert any(map(chooses, PROMPTS))
    return swept(tmp_path_factory.mktemp("texts") / "out", model, PROMPTS)


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


class Interrupts(NullDisplay):
    """Presses Ctrl-C, as it were, once something was learned."""

    def show(self, progress: Progress, last: bool = False) -> None:
        if progress.has_begun:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("ray_here")
def test_an_interrupted_training_goes_on_and_ends_as_an_undisturbed_one(
    texts: Path, model: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)  # a block
    monkeypatch.setattr(loop, "BLOCK_TOKENS", 24)
    out = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        trained(texts, out, display=Interrupts())
    assert [path.name for path in out.iterdir()] == [STATE]

    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    command = [str(texts), "--what", "linear", "--out", str(out), "--device", "cpu"]
    assert "holds another training (settings.layers: " in refusal(train.main, *command, "--exit-layers", "4")
    done = here(train.main, *command)
    assert (done.returncode, "resuming" in done.stderr) == (0, True)
    assert re.search(r"linear +[0-9.]+% +[0-9.]+%", done.stdout)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("eexit sweep ")]
    planned, _ = load_job(shlex.split(line)[2:], sweep.DEMO)
    assert (planned.config.model, planned.config.readout) == (str(model), str(out))
    assert (planned.config.exit_layers, planned.out) == ((2, 4), f"{out}-sweep")
    assert "nothing is left to do" in here(train.main, *command).stderr
    assert sorted(path.name for path in out.iterdir()) == [CARD, WEIGHTS]
    assert_same_weights(out, learned)


def test_the_card_says_what_was_trained_for_what_and_on_what(texts: Path, tmp_path: Path) -> None:
    linear = trained_here(texts, tmp_path / "linear", "linear")
    assert (linear.what, linear.holds, linear.layers, linear.readout) == ("linear", ("readout",), (2, 4), "lens")
    assert linear.data["n_prompts"] + linear.data["n_held_out_prompts"] == len(PROMPTS)
    assert linear.data["n_held_out_prompts"] == sum(map(is_held_out, PROMPTS))
    assert linear.model == read_finished(str(texts), ["prompt_id"]).manifest.model
    rows = [(row.layer, row.series) for row in linear.table]
    assert rows == [(2, "lens"), (4, "lens"), (2, "linear"), (4, "linear")]
    probe = trained_here(texts, tmp_path / "probe", "probe", readout=str(tmp_path / "linear"), layers=(4,))
    assert (probe.holds, probe.layers, probe.readout) == (("probe",), (4,), linear.digest)
    assert read_card(str(tmp_path / "probe"), "probe").model_copy(update={"checksum": ""}) == probe


def test_what_is_trained_with_an_adapter_is_used_with_it(texts: Path, model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(AutoModelForCausalLM.from_pretrained(model), tmp_path / "peft", ("o_proj",))
    base, card = trained_here(texts, tmp_path / "base"), trained_here(texts, tmp_path / "exits", adapter=adapter)
    assert card.adapter == read_card(adapter, ADAPTER).digest
    assert card.table != base.table
    line = sweep_command(card, "exits", ["--adapter", adapter])
    assert line.endswith(f" --readout exits --adapter {adapter} --exit-layers 2 4 --out exits-sweep")
    grid: dict[str, Any] = {"model": str(model), "prompts": [{"id": "0", "prompt": "?"}], "exit_every": 2}
    reading = {"readout": str(tmp_path / "exits")}
    refuse_misfit(SweepConfig.model_validate({**grid, **reading, "adapter": adapter}), base.model, [2, 4])
    with pytest.raises(ValidationError, match="was trained on an adapter's hidden states"):
        SweepConfig.model_validate({**grid, **reading})


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("lineal", {}, "--what lineal can't be trained: did you mean linear?"),
        ("linear", {"rules": ("kl/1",)}, "--rules is for gate, and --what is linear: leave it out"),
        ("gate", {}, "a gate is for rules: give --rules"),
        ("linear", {"layers": (2, 9)}, "exit layer 9 is not below the final layer"),
        ("kv-maps", {"adapter": "nowhere"}, "--adapter nowhere is not a folder that is there"),
    ],
)
def test_what_can_not_be_trained_is_told_in_a_line_before_anything_is_loaded(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    with pytest.raises(UsageError) as raised:
        trained(texts, tmp_path / "exits", what, **given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "exits").exists()


def test_only_a_finished_sweep_with_texts_and_enough_prompts_will_do(model: Path, tmp_path: Path) -> None:
    exits = swept(tmp_path / "exits", model, PROMPTS[:1], modes=("unfrozen",), kl_factors=(1.0,))
    few = swept(tmp_path / "few", model, PROMPTS[:1])
    (tmp_path / "file").touch()
    for results, out, message in (
        (tmp_path, "out", "holds no sweep.json: give the folder of a finished sweep"),
        (exits, "out", "has no normal runs with texts to learn from: run a sweep with --modes normal"),
        (few, "out", "has too few prompts: of its 1 texts"),
        (few, "file", f"--out {tmp_path / 'file'} is a file: give a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            trained(results, tmp_path / out)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def with_card(out: Path, **fields: Any) -> None:
    (out / CARD).write_text(json.dumps({**json.loads((out / CARD).read_text()), **fields}))


Damage = Callable[[Path], object]
DAMAGES: list[tuple[Damage, str]] = [
    (lambda its: flipped(its / WEIGHTS), f"this training's artefact, but {WEIGHTS} is not the file that was"),
    (lambda its: os.truncate(its / WEIGHTS, 100), f"this training's artefact, but {WEIGHTS} is not the file"),
    (lambda its: (its / WEIGHTS).unlink(), f"this training's artefact, but {WEIGHTS} is missing"),
    (lambda its: os.truncate(its / CARD, 100), f"a {CARD} that can't be read"),
    (lambda its: with_card(its, data="text"), f"a {CARD} that can't be read"),
    (lambda its: (its / CARD).unlink(), f"{WEIGHTS} without a {CARD}"),
]


@pytest.mark.parametrize(("spoil", "says"), DAMAGES)
def test_a_damaged_artefact_is_unfinished(texts: Path, learned: Path, tmp_path: Path, spoil: Damage, says: str) -> None:
    out = Path(shutil.copytree(learned, tmp_path / "out"))
    assert is_finished(plan_of(texts, out))
    spoil(out)
    with pytest.raises(DamagedArtefactError, match=f"^{out} holds {says}"):
        is_finished(plan_of(texts, out))


@pytest.mark.usefixtures("ray_here")
def test_a_damaged_artefact_is_trained_again(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(learned, tmp_path / "my exits"))
    flipped(out / WEIGHTS)
    held = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError) as refused:
        read_card(str(out), "readout")
    program, name, *command = shlex.split(str(refused.value).partition("train it again: ")[2])
    assert (program, name) == ("eexit", "train")
    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    done = here(train.main, *command, "--device", "cpu")
    assert done.returncode == 0
    assert f"it is trained again; what is left of it is in {out}/damaged/" in done.stderr
    read_card(str(out), "readout")
    assert_same_weights(out, learned)
    [aside] = (out / "damaged").iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == held
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (lambda its: (its / CARD).write_text('{"name": "Ada"}'), {}, f"{CARD} is no training's: choose another --out"),
        (lambda its: flipped(its / WEIGHTS), {"layers": (4,)}, "settings.layers"),
        (lambda its: with_card(its, format=4), {}, "of another version: choose another --out"),
    ],
)
def test_another_training_is_left_alone(
    texts: Path, learned: Path, tmp_path: Path, change: Damage, asked: dict[str, Any], message: str
) -> None:
    out = Path(shutil.copytree(learned, tmp_path / "out"))
    change(out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=message):
        trained(texts, out, **asked)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
