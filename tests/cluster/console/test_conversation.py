"""`python jobs/chat.py`: a conversation with a setting, each token in the colour of its exit layer."""

import io
from pathlib import Path

import pytest
import torch
from commands import here
from rich.console import Console
from taken_settings import save_family, swept
from transformers import AutoTokenizer

from cluster.console.conversation import ColouredText
from eexit.studies.taking_home.take_home import Wanted, take_home
from jobs.chat import main

KEY = "skip/confidence/0.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chat")
    model = save_family(made / "model", "llama")
    out = swept(made / "sweep", model, ["Why?"], rules={"confidence": [0.2]}, modes=["skip"])
    take_home(Wanted(str(out), str(made / "mine"), KEY))
    return made


def test_questions_are_answered_and_full_depth_beside_them_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n/normal\nAnd then?\n"))
    done = here(main, folder / "mine", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{KEY} of ")
    assert lines[1] == "read after layer 1 3 4 or at full depth"
    told = [line for line in lines if "tokens per second" in line]
    assert [line.split(": ")[0] for line in told] == [KEY, KEY, "normal (plain generate)"]
    assert "of full depth's multiply-adds saved" in told[0]
    assert [line for line in lines if line.startswith("> ")] == ["> Why?", "> /normal", "> And then?", "> "]


def test_a_token_has_the_colour_of_its_layer_and_a_character_of_several_tokens_comes_whole(folder: Path) -> None:
    tokenizer, written = AutoTokenizer.from_pretrained(folder / "model"), io.StringIO()
    console = Console(file=written, force_terminal=True, color_system="truecolor", width=80)
    streamer = ColouredText(console, tokenizer, {1: "rgb(1,2,3)"})
    streamer.put(torch.tensor([[5, 6]]))  # the prompt
    for layer, token_id in zip((1, 6, 6), tokenizer.encode("aé"), strict=True):
        streamer.put_exits([layer])
        streamer.put(torch.tensor([token_id]))
    streamer.end()
    assert written.getvalue() == "\x1b[38;2;1;2;3ma\x1b[0m\x1b[39mé\x1b[0m\n"
    assert streamer.text == "aé"
    assert streamer.tokens_per_second > 0


def test_what_is_no_setting_is_refused_before_a_model_loads(tmp_path: Path) -> None:
    done = here(main, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has no setting.json" in done.stderr
