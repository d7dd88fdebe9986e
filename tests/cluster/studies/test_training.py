"""Training on a finished sweep's texts: what lands, what is refused, and going on after an interruption."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_model import save_byte_model
from commands import asked_here
from driving import look_here
from landed_sweep import land_all
from pydantic import ValidationError
from references import save_adapter
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from cluster.console.flags_from_config import load_job
from cluster.studies import training
from cluster.studies.training import TrainingJob, train_exits
from eexit.errors import UsageError
from eexit.model.adapters import merged
from eexit.output.progress import NullDisplay, Progress
from eexit.plan import model_inspection
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import ADAPTER, CARD, STATE, WEIGHTS, ArtefactCard, read_card
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.results.layout import MANIFEST
from eexit.training import loop
from eexit.training.plan import TrainArgs, is_finished, make_training_plan
from eexit.training.texts import chooses, is_held_out, read_texts
from eexit.training.training_table import sweep_command
from jobs import sweep, train

PROMPTS = [f"prompt {number}" for number in range(20)]


def swept(out: Path, model: Path, prompts: list[str], **others: Any) -> Path:
    """A finished sweep of a small model."""
    config = SweepConfig(
        model=str(model),
        prompts=tuple(Prompt(id=prompt, prompt=prompt) for prompt in prompts),
        dtype="float32",
        exit_every=2,
        max_new_tokens=8,
        **{"modes": ("normal",), "kl_factors": (), **others},
    )
    return land_all(out, config)


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
    prompts, display = others.pop("prompts", ()), others.pop("display", NullDisplay())
    return train_exits(str(texts), TrainArgs(what, str(out), prompts, options=others), "cpu", display, look_here)


def trained_here(texts: Path, out: Path, what: str, **options: Any) -> ArtefactCard:
    """The same in this process, without Ray."""
    sweep = read_finished(str(texts), ["prompt_id"])
    asked = TrainArgs(what, str(out), options=options)
    plan = make_training_plan(sweep, asked, read_texts(sweep.store), look_here)
    assert not is_finished(plan)
    out.mkdir()
    work = TrainingJob(plan)
    work.load("cpu")
    work.training.advance(60)
    return work.training.finish()


class Interrupts(NullDisplay):
    """Presses Ctrl-C, as it were, once something was learned."""

    def show(self, progress: Progress, last: bool = False) -> None:
        if progress.has_begun:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("ray_here")
def test_an_interrupted_training_goes_on_and_ends_as_an_undisturbed_one(
    texts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)  # a block
    monkeypatch.setattr(loop, "BLOCK_TOKENS", 24)
    out = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        trained(texts, out, display=Interrupts())
    assert [path.name for path in out.iterdir()] == [STATE]

    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    command = [str(texts), "--what", "linear", "--out", str(out), "--device", "cpu"]
    assert train.main([*command, "--exit-layers", "4"]) == 2
    assert "parts holds another training (settings.layers: [2, 4] -> [4]): choose another" in capsys.readouterr().err
    assert train.main(command) == 0
    printed = capsys.readouterr()
    assert "resuming" in printed.err
    assert re.search(r"linear +[0-9.]+% +[0-9.]+%", printed.out)
    [line] = [line for line in printed.out.splitlines() if line.startswith("eexit sweep ")]
    planned, _ = load_job(shlex.split(line)[2:], sweep.DEMO)
    assert (planned.config.model, planned.config.readout) == (str(model), str(out))
    assert (planned.config.exit_layers, planned.out) == ((2, 4), f"{out}-sweep")
    assert train.main(command) == 0
    assert "nothing is left to do" in capsys.readouterr().err

    trained_here(texts, tmp_path / "whole", "linear")
    assert sorted(path.name for path in out.iterdir()) == [CARD, WEIGHTS]
    weights = [load_file(folder / WEIGHTS) for folder in (tmp_path / "whole", out)]
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(tensor, weights[1][name], rtol=1e-4, atol=1e-6)  # another number of threads


def test_the_card_says_what_was_trained_for_what_and_on_what(texts: Path, tmp_path: Path) -> None:
    linear = trained_here(texts, tmp_path / "linear", "linear")
    assert (linear.what, linear.holds, linear.layers, linear.readout) == ("linear", ("readout",), (2, 4), "lens")
    assert linear.data["n_prompts"] + linear.data["n_held_out_prompts"] == len(PROMPTS)
    assert linear.data["n_held_out_prompts"] == sum(map(is_held_out, PROMPTS))
    assert linear.model == look_at(texts)
    assert (linear.model["dtype"], linear.dtype_asked) == ("float32", "float32")
    assert [(row.layer, row.series) for row in linear.table] == [
        (layer, readout) for readout in ("lens", "linear") for layer in (2, 4)
    ]
    probe = trained_here(texts, tmp_path / "probe", "probe", readout=str(tmp_path / "linear"), layers=(4,))
    assert (probe.holds, probe.layers, probe.readout) == (("probe",), (4,), linear.digest)
    held = read_card(str(tmp_path / "probe"), "probe")
    assert held.model_copy(update={"checksum": ""}) == probe


def test_what_is_trained_with_an_adapter_is_fitted_to_the_student_and_used_with_it(
    texts: Path, model: Path, tmp_path: Path
) -> None:
    """An adapter that peft saved, and a fine-tuned model of the same shape."""
    loaded = AutoModelForCausalLM.from_pretrained(model)
    adapters = [save_adapter(loaded, tmp_path / "peft", ("o_proj",)), str(tmp_path / "tuned")]
    merged(loaded, adapters[0]).save_pretrained(adapters[1])
    base = trained_here(texts, tmp_path / "base", "linear")
    cards = [
        trained_here(texts, tmp_path / f"exits-{index}", "linear", adapter=adapter)
        for index, adapter in enumerate(adapters)
    ]
    assert [card.adapter for card in cards] == [read_card(adapter, ADAPTER).digest for adapter in adapters]
    assert cards[0].table == cards[1].table != base.table
    line = sweep_command(cards[0], "exits/student", ["--adapter", adapters[0]])
    assert line.endswith(
        f" --readout exits/student --adapter {adapters[0]} --exit-layers 2 4 --out exits/student-sweep"
    )
    grid: dict[str, Any] = {"model": str(model), "prompts": [{"id": "0", "prompt": "?"}], "exit_every": 2}
    config = SweepConfig.model_validate({**grid, "adapter": adapters[0], "readout": str(tmp_path / "exits-0")})
    refuse_misfit(config, look_at(texts), [2, 4])
    with pytest.raises(
        ValidationError, match="was trained on an adapter's hidden states: give --adapter as it was there"
    ):
        SweepConfig.model_validate({**grid, "adapter": adapters[1], "readout": str(tmp_path / "exits-0")})


def look_at(texts: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((texts / MANIFEST).read_text())["model"]
    return described


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("lineal", {}, "--what lineal can't be trained: did you mean linear?"),
        ("linear", {"rules": ("kl/1",)}, "--rules is for gate, and --what is linear: leave it out"),
        ("gate", {}, "a gate is for rules: give --rules, as in --rules confidence=0.9,0.97 entropy=0.1"),
        ("linear", {"layers": (2, 9)}, "exit layer 9 is not below the final layer"),
        ("probe", {"readout": "nowhere"}, "--readout nowhere is not a folder"),
        (
            "kv-maps",
            {"adapter": "nowhere"},
            "--adapter nowhere is not a folder that is there: give one that peft saved",
        ),
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


@pytest.fixture(scope="module")
def learned(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "linear"
    trained_here(texts, folder, "linear")
    return folder


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def with_text_for_data(card: Path) -> None:
    card.write_text(json.dumps({**json.loads(card.read_text()), "data": "text"}))


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit": (lambda its: flipped(its / WEIGHTS), f"this training's artefact, but {WEIGHTS} is not the file that was"),
    "an end": (lambda its: os.truncate(its / WEIGHTS, 100), f"this training's artefact, but {WEIGHTS} is not the file"),
    "no weights": (lambda its: (its / WEIGHTS).unlink(), f"this training's artefact, but {WEIGHTS} is missing"),
    "half a card": (lambda its: os.truncate(its / CARD, 100), f"a {CARD} that can't be read"),
    "no data": (lambda its: with_text_for_data(its / CARD), f"a {CARD} that can't be read"),
    "no card": (lambda its: (its / CARD).unlink(), f"{WEIGHTS} without a {CARD}"),
}


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    "damage", [pytest.param(each, marks=() if each in ("a bit", "no card") else pytest.mark.slow) for each in DAMAGES]
)
def test_a_damaged_artefact_is_trained_again_by_the_same_command(
    texts: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:  # fmt: skip
    """Where only the weights are damaged, a sweep that is given them names that command."""
    out = Path(shutil.copytree(learned, tmp_path / "my exits"))
    spoil, says = DAMAGES[damage]
    spoil(out)
    command = [str(texts), "--what", "linear", "--out", str(out)]
    if damage == "a bit":
        with pytest.raises(UsageError) as refused:
            read_card(str(out), "readout")
        program, name, *command = shlex.split(str(refused.value).partition("train it again: ")[2])
        assert (program, name) == ("eexit", "train")
    (out / "mine.txt").write_text("mine")
    held = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "mine.txt"}
    monkeypatch.setattr(training, "train_exits", partial(train_exits, inspect=look_here))
    assert train.main([*command, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert f"{out} holds {says}" in said
    assert f"it is trained again; what is left of it is in {out}/damaged/" in said
    read_card(str(out), "readout")
    for name, tensor in load_file(learned / WEIGHTS).items():
        np.testing.assert_allclose(load_file(out / WEIGHTS)[name], tensor, rtol=1e-4, atol=1e-6)
    [aside] = (out / "damaged").iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == held
    assert (out / "mine.txt").read_text() == "mine"
    assert train.main([*command, "--device", "cpu"]) == 0
    assert "nothing is left to do" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [(), (WEIGHTS,)])
def test_another_programs_card_is_left_alone(texts: Path, tmp_path: Path, beside: Sequence[str]) -> None:
    for name in (CARD, *beside):
        (tmp_path / name).write_text('{"name": "Ada", "phone": "+44 20"}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=f"^{tmp_path / CARD} is no training's: choose another --out, or move it"):
        trained(texts, tmp_path, "linear")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_another_trainings_is_left_alone_however_damaged(texts: Path, learned: Path, tmp_path: Path) -> None:
    for name, version in (("layers", "settings.layers"), ("format", "of another version: choose another --out")):
        out = Path(shutil.copytree(learned, tmp_path / name))
        flipped(out / WEIGHTS)
        if name == "format":
            (out / CARD).write_text(json.dumps({**json.loads((out / CARD).read_text()), "format": 4}))
        before = {path: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(UsageError, match=version):
            trained(texts, out, "linear", **({"layers": (4,)} if name == "layers" else {}))
        assert {path: path.read_bytes() for path in out.iterdir()} == before
