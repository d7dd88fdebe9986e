"""`python jobs/chat.py`: a conversation with a setting, each token in the colour of its exit layer."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from byte_model import save_family
from commands import here, refusal
from driving import wait_until
from rich.console import Console
from taken_settings import swept
from transformers import AutoTokenizer

from cluster.console.conversation import COMMANDS, ColouredText
from eexit.studies.taking_home.take_home import Wanted, take_home
from jobs.chat import main

SCRIPT = Path(__file__).parents[3] / "jobs" / "chat.py"
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
    assert "read after layer 1 3 4 or at full depth" in lines[1:3]  # a long name of the model takes a line more
    told = [line for line in lines if "tokens per second" in line]
    assert [line.split(": ")[0] for line in told] == [KEY, KEY, "normal (plain generate)"]
    assert "of full depth's multiply-adds saved" in told[0]
    assert [line for line in lines if line.startswith("> ")] == ["> Why?", "> /normal", "> And then?", "> "]


def said(folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str | bytes, *flags: str) -> list[str]:
    """The lines of a conversation in which this is typed, in which every answer is short."""
    raw = typed.encode() if isinstance(typed, str) else typed
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
    done = here(main, folder / "mine", *(flags or ("--max-new-tokens", "4")))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def n_answers(lines: list[str]) -> int:
    return sum(line.startswith(f"{KEY}: ") for line in lines)


def test_commands_are_no_questions_and_say_what_they_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(folder, monkeypatch, "/norMal\n/normal\n/help\n/bold [x]?\n/nonsense\n/\n")
    assert n_answers(lines) == 1  # to the line that has more than a command's word
    assert "full depth answers every question too from now on" in lines
    assert "full depth answers no longer" in lines
    told = [line for line in lines if line.endswith(COMMANDS)]
    assert told == [COMMANDS, *(f"there is no command {name}: {COMMANDS}" for name in ("/nonsense", "/"))]


def test_brackets_in_a_line_are_no_markup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(folder, monkeypatch, "a[0] [/b] [bold]?\n")
    assert "> a[0] [/b] [bold]?" in lines
    assert n_answers(lines) == 1


def test_a_line_that_is_no_text_is_not_asked_and_the_next_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(folder, monkeypatch, b"Wh\xffy?\n\xc3\nWhy \xc3\xa9?\n")
    assert lines.count("that line is not UTF-8 text, and is not asked") == 2
    assert "> Why é?" in lines
    assert n_answers(lines) == 1


def test_of_a_conversation_that_fills_the_context_the_oldest_turns_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has 256 positions, of which a turn takes about 130."""
    lines = said(folder, monkeypatch, f"{'Why is it? ' * 10}\n" * 3)
    assert n_answers(lines) == 3
    left_out = [line for line in lines if "left out" in line]
    assert left_out
    assert left_out[0] == "the oldest question and its answer are left out from now on: the model reads 256 tokens"


def test_a_question_that_no_context_holds_is_not_asked_and_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(folder, monkeypatch, f"Why?\n{'x' * 700}\nWhy?\n{'y' * 225}\n", "--max-new-tokens", "20")
    assert [line for line in lines if "left out" in line] == [
        "the oldest 2 questions and answers are left out from now on: the model reads 256 tokens"
    ], "of the last, which alone has room"
    [refused] = [line for line in lines if "is not asked" in line]
    assert refused == "that question is not asked: it takes 718 tokens, and the model reads 256"
    assert n_answers(lines) == 3, "the last has the room that is left"


def test_the_first_interruption_ends_it_in_a_line_whatever_it_imports(folder: Path) -> None:
    """Ctrl-C while torch is imported, which takes seconds."""
    command = [sys.executable, str(SCRIPT), str(folder / "mine")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), seconds=60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert (process.returncode, said) == (1, "stopped: interrupted\n")


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
    assert "has no setting.json" in refusal(main, tmp_path)
