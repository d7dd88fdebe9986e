"""`eexit package`: the folder that comes of it, its guarantee, savings and artefacts; what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import save_family
from commands import here, refusal
from references import save_adapter
from safetensors.torch import save_file
from synthetic_sweeps import add_timings, choose
from taken_settings import TEXTS, confidence_of, loaded, run, swept, texts_of
from transformers import AutoModelForCausalLM
from untrained import PROBE

import eexit
from eexit.custom_generate.package import Certificate
from eexit.model.sources import sha256
from eexit.plan.artefacts import ADAPTER, WEIGHTS, ArtefactCard, read_card, write_card
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.plan.configuration import EarlyExit, HFGenerate, NoExit
from jobs.package import main

KEY = f"skip/confidence/{confidence_of('llama'):g}"
RULES = {"confidence": [confidence_of("llama")], "kl": [1.0], "fixed": [3.0], "agree": []}
FEW = TEXTS[:4]
OF_RIGHT = {"loss_of_right": 0.03, "n_of_right": 60, "p_of_right": 0.2}
TESTED = {"mean_loss": 0.02, "n": 90, "p_value": 0.01, "cost": 0.7, "prompts_needed": None, **OF_RIGHT}
ASKED: dict[str, Any] = {
    "risk": "answers", "loss": "1 if the answer is wrong", "max_risk": 0.05, "confidence": 0.95, "test": "exact",
    "order": "pareto", "question": 2,
}  # fmt: skip
HELD_OUT = {"mean_loss": 0.03, "n": 50, "upper": 0.08, "p_value": 0.2}  # of `choose`


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("family") / "model", "llama")


@pytest.fixture(scope="module")
def swept_out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = ["normal", *(f"skip/{each}" for each in ("kl/1", "fixed/3", "agree")), KEY, f"{KEY}+prompt"]
    asked: dict[str, Any] = {"rules": RULES, "modes": ["normal", "skip"], "system": "Be brief."}
    asked |= {"prompt_exits": True, "only": keys}
    return swept(tmp_path_factory.mktemp("home") / "sweep", model, FEW, **asked)


@pytest.fixture
def out(swept_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept_out, tmp_path / "sweep"))


def choose_setting(out: Path, key: str | None, **columns: float) -> None:
    choose(out, chosen=key, tested=[{"configuration": KEY, "certified": bool(key), **TESTED, **columns}], **ASKED)


def take(*arguments: str | Path) -> str:
    done = here(main, *arguments, "--quiet")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_chosen_is_taken_with_its_guarantee_its_check_and_what_it_saved(out: Path, tmp_path: Path) -> None:
    choose_setting(out, KEY)
    setting = EarlyExit("skip", "confidence", confidence_of("llama"))
    seconds = {NoExit(): [2.0] * 6, setting: [1.5] * 6, HFGenerate(): [1.2] * 6}
    add_timings(out, seconds, batches=(8,), machine="a machine")
    printed = take(out, "--chosen", "--out", tmp_path / "mine")
    taken = eexit.load(tmp_path / "mine").package
    found = {"n": 90, "mean_loss": 0.02, "p_value": 0.01, **OF_RIGHT, "held_out": HELD_OUT}
    assert taken.certificate == Certificate.model_validate({**ASKED, **found})
    [timed] = taken.timed
    assert timed.saved == pytest.approx(0.25)
    assert (timed.rows, timed.rounds, timed.machine) == (8, 6, "a machine")
    for text in (printed, (tmp_path / "mine" / "README.md").read_text()):
        for sentence in (
            "It was the second use of these prompts.",
            "With 95% confidence, over prompts like these, the share of prompts whose answer full depth gets right",
            "of the 60 that full depth gets right, it loses 3%, for which nothing is certified (p = 0.2).",
            "On 50 test prompts, its mean loss is 3%",
            "at 8 sequences (realised): 25.0%",
            "6 rounds on a machine; 1.25 × generate's time.",
            "such as 'Why?', system prompt 'Be brief.'; texts of up to 10 tokens, decoded greedily",
        ):
            assert sentence in text


def test_a_guarantee_of_groups_says_so(out: Path, tmp_path: Path) -> None:
    choose_setting(out, KEY, loss_of_prompts=0.054, n_of_prompts=813)
    printed = take(out, "--chosen", "--out", tmp_path / "mine")
    assert "n = 90 groups, mean 2%, p = 0.01." in printed
    assert "over their 813 prompts the mean is 5.4%, for which nothing is certified." in printed


def test_without_a_choice_that_certified_it_there_plainly_is_no_guarantee(out: Path, tmp_path: Path) -> None:
    asked = (main, out, "--chosen", "--out", tmp_path / "mine", "--quiet")
    assert "has no choices: choose with eexit choose" in refusal(*asked)
    choose_setting(out, None)
    assert "certified no setting that saves anything" in refusal(*asked)
    assert "It has no guarantee" in take(out, "--configuration", KEY, "--out", tmp_path / "mine")
    assert eexit.load(tmp_path / "mine").package.certificate is None


def test_what_can_not_be_taken_is_refused(model: Path, swept_out: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused: list[tuple[list[str], str]] = [
        (["--configuration", "skip/kl/1"], "rule kl reads the final layer, so that all layers have to run"),
        (["--configuration", KEY, "--hub", 'x"; print(1); "'], "is no repository's name: give one as in me/mine"),
        (["--configuration", f"{KEY}+prompt"], f"that their exits save nothing; sweep and package {KEY}"),
        (["--configuration", "normal"], "it has no exits, so that plain generate does the same"),
        (["--configuration", "skip/confidence/0.3"], f"did you mean {KEY}"),
        (["--configuration", KEY, "--chosen"], "give either --chosen or --configuration KEY"),
        ([], "give either --chosen or --configuration KEY"),
        (["--configuration", KEY, "--out", f"{tmp_path}/full"], "holds mine.txt, and nothing there is replaced"),
        (["--configuration", KEY, "--out", f"{tmp_path}/full/mine.txt"], "is a file: give a folder"),
        (["--configuration", KEY, "--out", f"{swept_out}/tokens"], "is inside the sweep's results"),
        (["--configuration", KEY, "--out", "s3://bucket/mine"], "is a URI: give a local folder"),
    ]
    for arguments, reason in refused:
        assert reason in refusal(main, swept_out, "--out", tmp_path / "mine", *arguments, "--quiet")
    with (model / "config.json").open("r+") as file:
        config = file.read()
        file.write(" ")
    line = refusal(main, swept_out, "--configuration", KEY, "--out", tmp_path / "mine", "--quiet")
    (model / "config.json").write_text(config)
    assert "is not the one that the sweep had" in line
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_a_sweep_in_bfloat16_is_taken_home_in_float32_too_whose_texts_may_differ(model: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"rules": {"confidence": [0.2]}, "modes": ["skip"], "dtype": "bfloat16"}
    out, key = swept(tmp_path / "sweep", model, FEW, **fields, max_new_tokens=24), "skip/confidence/0.2"
    printed = take(out, "--configuration", key, "--dtypes", "float32", "--out", tmp_path / "mine")
    about = eexit.load(tmp_path / "mine").package.model
    assert (about.dtype, about.dtype_asked) == ("bfloat16", "bfloat16")
    assert about.measured["float32"].identical < len(FEW), "what was refused before"
    assert "The sweep, and any guarantee, is of bfloat16." in printed


def test_a_repository_generates(swept_out: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)  # where this is the repository, as if it had been fetched
    folder = tmp_path / "me" / "mine"
    take(swept_out, "--configuration", KEY, "--hub", "me/mine", "--out", folder)
    assert (folder / "custom_generate" / "requirements.txt").read_text() == "eexit\n"
    its: Any = loaded(model)
    [prompt, *_], [(token_ids, _), *_] = texts_of(swept_out, KEY)
    given = {"max_new_tokens": 10, "do_sample": False, "trust_remote_code": True}
    names: dict[str, Any] = {}
    exec((folder / "custom_generate" / "generate.py").read_text(), names)
    made = names["generate"](its, inputs=torch.tensor([prompt]), streamer=None, max_new_tokens=10)
    assert made[0, len(prompt) :].tolist() == token_ids
    by_name = its.generate(torch.tensor([prompt]), custom_generate=str(folder), **given)
    assert by_name.tolist() == made.tolist()


def test_what_was_trained_is_taken_along(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = save_adapter(AutoModelForCausalLM.from_pretrained(model), tmp_path / "student")
    probe, mode = tmp_path / "probe", "frozen_residual"  # a random probe of the adapter's hidden states
    probe.mkdir()
    save_file(PROBE.tensors(), probe / WEIGHTS)
    files, adapter = {WEIGHTS: sha256([probe / WEIGHTS])}, read_card(student, ADAPTER).digest
    card = {"what": "probe", "holds": [PROBE_ROLE], "model": {}, "layers": range(6), "readout": "lens", "files": files}
    write_card(probe, ArtefactCard.model_validate({**card, "adapter": adapter}))
    asked: dict[str, Any] = {"adapter": student, "probe": str(probe), "screen": "8:32", "modes": [mode]}
    out = swept(tmp_path / "sweep", model, FEW, rules={"predicted_kl": [1.0], "confidence": [0.2]}, **asked)
    keys = {f"{mode}/predicted_kl/1": "artefacts/probe", f"{mode}/confidence/0.2": None}
    for at, key in enumerate(keys):
        assert "rules decide by screen 8:32;" in take(out, "--configuration", key, "--out", tmp_path / f"{at}")
    shutil.rmtree(student)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))  # who has none
    for at, (key, taken) in enumerate(keys.items()):
        setting, (prompts, texts) = eexit.load(tmp_path / f"{at}"), texts_of(out, key)
        assert setting.package.config["probe"] == taken
        assert run(loaded(model), setting, prompts) == texts
    assert not (tmp_path / "another user").exists()
