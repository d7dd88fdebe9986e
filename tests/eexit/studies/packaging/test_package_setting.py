"""`eexit package`: the folder that comes of it, its guarantee, savings and artefacts; what is refused."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from blank_rows import blank
from byte_model import save_family
from commands import here, refusal
from references import save_adapter
from safetensors.torch import save_file
from taken_settings import TEXTS, confidence_of, swept, texts_of
from transformers import AutoModelForCausalLM
from untrained import PROBE

import eexit
from eexit.custom_generate.package import SETTING, Certificate
from eexit.model.sources import sha256
from eexit.plan.artefacts import ADAPTER, WEIGHTS, ArtefactCard, read_card, write_card
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES, TIMINGS
from jobs.package import main

KEY = f"skip/confidence/{confidence_of('llama'):g}"
RULES = {"confidence": [confidence_of("llama")], "kl": [1.0], "fixed": [3.0], "agree": []}
FEW = TEXTS[:4]
OF_RIGHT = {"loss_of_right": 0.03, "n_of_right": 60, "p_of_right": 0.2}
TESTED = {"mean_loss": 0.02, "n": 90, "p_value": 0.01, "cost": 0.7, "prompts_needed": None, **OF_RIGHT}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("family") / "model", "llama")


@pytest.fixture(scope="module")
def swept_out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked: dict[str, Any] = {"rules": RULES, "modes": ["normal", "skip"], "system": "Be brief."}
    return swept(tmp_path_factory.mktemp("home") / "sweep", model, FEW, **asked)


@pytest.fixture
def out(swept_out: Path, tmp_path: Path) -> Path:
    """A sweep of its own for a test that adds to it."""
    shutil.copytree(swept_out, tmp_path / "sweep")
    return tmp_path / "sweep"


def choose(out: Path, key: str | None, **columns: float) -> None:
    tested = [{"configuration": KEY, "certified": key is not None, **TESTED, **columns}]
    row = {
        **blank(CHOICES), "started": datetime.now(UTC), "status": "ok", "risk": "answers",
        "loss": "1 if the answer is wrong", "max_risk": 0.05, "confidence": 0.95, "test": "exact", "order": "pareto",
        "question": 2,
        "configuration": key, "tested": tested, "reporting_n": 30, "reporting_mean_loss": 0.03, "reporting_upper": 0.09,
        "reporting_p_value": 0.2,
    }  # fmt: skip
    CHOICES.publish(open_store(out), "a" * 32, [row])


def time_it(out: Path) -> None:
    common = {**blank(TIMINGS), "started": datetime.now(UTC), "machine": "a machine", "tokens": 10}
    rows = [
        {**common, "configuration": key, "batch": 8, "round": number, "seconds": seconds}
        for number in range(1, 7)
        for key, seconds in (("normal", 2.0), (KEY, 1.5), ("generate", 1.2))
    ]
    TIMINGS.publish(open_store(out), "b" * 32, rows)


def take(*arguments: str | Path) -> Any:
    return here(main, *arguments, "--quiet")


def held(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SETTING).read_text())
    return found


def test_what_was_chosen_is_taken_with_its_guarantee_its_check_and_what_it_saved(out: Path, tmp_path: Path) -> None:
    choose(out, KEY)
    time_it(out)
    done = take(out, "--chosen", "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    assert "It was the second ask of these prompts." in done.stdout
    certificate = eexit.load(tmp_path / "mine").taken.certificate
    assert certificate == Certificate.model_validate({
        "risk": "answers", "loss": "1 if the answer is wrong", "max_risk": 0.05, "confidence": 0.95, "n": 90,
        "mean_loss": 0.02, "p_value": 0.01, **OF_RIGHT, "test": "exact", "order": "pareto", "question": 2,
        "held_out": {"mean_loss": 0.03, "n": 30, "upper": 0.09, "p_value": 0.2},
    })  # fmt: skip
    [timed] = eexit.load(tmp_path / "mine").taken.timed
    assert timed.saved == pytest.approx(0.25)
    assert (timed.rows, timed.rounds, timed.machine) == (8, 6, "a machine")
    for text in (done.stdout, (tmp_path / "mine" / "README.md").read_text()):
        assert (
            "With 95% confidence, over prompts like these, the share of prompts whose answer full depth gets right"
            in text
        )
        assert "of the 60 that full depth gets right, it loses 3%, for which nothing is certified (p = 0.2)." in text
        assert "On 30 prompts that chose nothing, its mean loss is 3%" in text
        assert "at 8 rows (realised): 25.0%" in text
        assert "6 rounds on a machine; 1.25 × generate's time." in text
        assert "such as 'Why?', system prompt 'Be brief.'; texts of up to 10 tokens, decoded greedily" in text


def test_a_guarantee_of_groups_of_unequal_size_says_so_with_the_loss_of_single_prompts(
    out: Path, tmp_path: Path
) -> None:
    choose(out, KEY, loss_of_prompts=0.054, n_of_prompts=813)
    done = take(out, "--chosen", "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    for sentence in (
        "n = 90 groups, mean 2%, p = 0.01.",
        "That is of groups: over their 813 prompts the mean is 5.4%, for which nothing is certified.",
        "That is of all groups: of the 60 where full depth has one right, it loses 3%",
    ):
        assert sentence in done.stdout


def test_without_a_choice_that_certified_it_there_plainly_is_no_guarantee(out: Path, tmp_path: Path) -> None:
    asked = (main, out, "--chosen", "--out", tmp_path / "mine", "--quiet")
    assert "has no choices: choose with eexit choose" in refusal(*asked)
    choose(out, None)
    assert "certified no setting that saves anything" in refusal(*asked)
    done = take(out, "--configuration", KEY, "--out", tmp_path / "mine")
    assert "It has no guarantee: no choice (eexit choose) certified it." in done.stdout
    assert held(tmp_path / "mine")["certificate"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--configuration", "skip/kl/1"], "rule kl looks at the final layer, so that all layers have to run"),
        (["--configuration", "skip/agree"], "rule agree looks at the final layer"),
        (["--configuration", KEY, "--hub", 'x"; print(1); "'], "is no repository's name: give one as in me/mine"),
        (["--configuration", "normal"], "it has no exits, so that plain generate does the same"),
        (["--configuration", "skip/confidence/0.3"], f"did you mean {KEY}"),
        (["--configuration", KEY, "--chosen"], "give either --chosen or --configuration KEY"),
        ([], "give either --chosen or --configuration KEY"),
    ],
)
def test_what_can_not_be_taken_home_is_refused_in_a_line(
    swept_out: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    assert reason in refusal(main, swept_out, *arguments, "--out", tmp_path / "mine", "--quiet")
    assert not (tmp_path / "mine").exists()


def test_a_sweep_in_bfloat16_is_taken_home_in_float32_too_whose_texts_may_differ(model: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"rules": {"confidence": [0.2]}, "modes": ["skip"], "dtype": "bfloat16"}
    out, key = swept(tmp_path / "sweep", model, FEW, **fields, max_new_tokens=24), "skip/confidence/0.2"
    done = take(out, "--configuration", key, "--dtypes", "float32", "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    about = held(tmp_path / "mine")["model"]
    assert (about["dtype"], about["dtype_asked"]) == ("bfloat16", "bfloat16")
    assert about["measured"]["float32"]["identical"] < len(FEW), "what was refused before"
    assert "The sweep, and any guarantee, is of bfloat16." in done.stdout


def test_nothing_is_replaced_and_nothing_is_put_among_results(swept_out: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place, reason in (
        (tmp_path / "full", "holds mine.txt, and nothing there is replaced"),
        (tmp_path / "full" / "mine.txt", "is a file: give a folder"),
        (swept_out / "tokens", "is inside the sweep's results"),
        ("s3://bucket/mine", "is a URI: give a local folder"),
    ):
        assert reason in refusal(main, swept_out, "--configuration", KEY, "--out", place, "--quiet")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_files_of_a_repository_generate_by_the_package(
    swept_out: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)  # where this is the repository, as if it had been fetched
    folder = tmp_path / "me" / "mine"
    assert take(swept_out, "--configuration", KEY, "--hub", "me/mine", "--out", folder).returncode == 0
    assert (folder / "custom_generate" / "requirements.txt").read_text() == "eexit\n"
    assert "rules decide by the whole head;" in " ".join((folder / "README.md").read_text().split())
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompt, token_ids, _ = texts_of(swept_out, KEY)[0]
    given = {"max_new_tokens": 10, "do_sample": False, "trust_remote_code": True}
    names: dict[str, Any] = {}
    exec((folder / "custom_generate" / "generate.py").read_text(), names)
    made = names["generate"](loaded, inputs=torch.tensor([prompt]), streamer=None, max_new_tokens=10)
    assert made[0, len(prompt) :].tolist() == token_ids
    by_name = loaded.generate(torch.tensor([prompt]), custom_generate=str(folder), **given)
    assert by_name.tolist() == made.tolist()


def test_a_screen_is_taken_along_and_a_changed_one_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"rules": {"confidence": [0.2]}, "modes": ["unfrozen"], "screen": "8:32"}
    out = swept(tmp_path / "sweep", model, FEW, **asked)
    folder = tmp_path / "mine"
    assert take(out, "--configuration", "unfrozen/confidence/0.2", "--out", folder).returncode == 0
    assert "rules decide by screen 8:32;" in " ".join((folder / "README.md").read_text().split())
    [screen] = (folder / "artefacts" / "screens").iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))  # who has none
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for prompt, token_ids, _ in texts_of(out, "unfrozen/confidence/0.2"):
        made = loaded.generate(torch.tensor([prompt]), custom_generate=eexit.load(folder), max_new_tokens=10)
        assert made[0, len(prompt) :].tolist() == token_ids
    assert not (tmp_path / "another user").exists()
    content = screen.read_bytes()
    screen.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="is not the file that was packaged"):
        eexit.load(folder)


def save_probe(folder: Path, student: str) -> str:
    """A random probe of a student's streams, in a folder such as training leaves."""
    folder.mkdir()
    save_file(PROBE.tensors(), folder / WEIGHTS)
    files, adapter = {WEIGHTS: sha256([folder / WEIGHTS])}, read_card(student, ADAPTER).digest
    card = {"what": "probe", "holds": [PROBE_ROLE], "model": {}, "layers": range(6), "readout": "lens", "files": files}
    write_card(folder, ArtefactCard.model_validate({**card, "adapter": adapter}))
    return str(folder)


def test_what_was_trained_is_taken_along_and_the_original_is_not_needed(model: Path, tmp_path: Path) -> None:
    student = save_adapter(AutoModelForCausalLM.from_pretrained(model), tmp_path / "student")
    probe = save_probe(tmp_path / "probe", student)
    rules: dict[str, Any] = {"predicted_kl": [1.0], "confidence": [0.2]}
    asked: dict[str, Any] = {"rules": rules, "modes": ["frozen_residual"], "adapter": student, "probe": probe}
    out = swept(tmp_path / "sweep", model, FEW, **asked)
    keys = ["frozen_residual/predicted_kl/1", "frozen_residual/confidence/0.2"]
    for index, key in enumerate(keys):
        done = take(out, "--configuration", key, "--out", tmp_path / f"{index}")
        assert done.returncode == 0, done.stderr
    shutil.rmtree(student)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for index, key in enumerate(keys):
        setting = eexit.load(tmp_path / f"{index}")
        assert (setting.taken.config["probe"] is None) == (index == 1)
        for prompt, token_ids, layers in texts_of(out, key):
            made = loaded.generate(
                torch.tensor([prompt]), custom_generate=setting, max_new_tokens=10, return_dict_in_generate=True
            )
            assert made.sequences[0, len(prompt) :].tolist() == token_ids
            assert made.exit_layers[0].tolist() == layers
    card = tmp_path / "0" / "artefacts" / "probe" / "card.json"
    card.write_text(card.read_text() + " ")
    with pytest.raises(ValueError, match=r"artefacts/probe/card.json is not the file that was packaged"):
        eexit.load(tmp_path / "0")


def test_a_changed_model_is_refused(model: Path, swept_out: Path, tmp_path: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config + " ")
    try:
        done = take(swept_out, "--configuration", KEY, "--out", tmp_path / "mine")
    finally:
        (model / "config.json").write_text(config)
    assert "is not the one that the sweep had" in done.stderr
