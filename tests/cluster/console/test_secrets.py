"""Secrets in a URI never appear in the output of commands, failing ones included, in logs, results or reports."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from byte_model import save_byte_model
from commands import here, without_steps
from pyarrow import fs
from ray_fixtures import SHARED_RAY
from s3_server import BUCKET, KEYS, Wire

from eexit.output.events import log, log_to_stderr
from jobs import report, sweep

pytestmark = pytest.mark.usefixtures("local_ray")
JOBS = Path(__file__).parents[3] / "jobs"
SECRET = "THIS-IS-A-SECRET"
Command = Callable[..., subprocess.CompletedProcess[str]]
FUNCTIONS: dict[str, Callable[[list[str]], int]] = {
    "sweep.py": sweep.main,
    "report.py": report.main,
    "bench": run_path(str(JOBS / "bench" / "__main__.py"))["main"],
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a job in this process, and sees to it that neither it nor a library printed a secret."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("COLUMNS", "100")

    def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = without_secrets(here(FUNCTIONS[script], *arguments))
        assert SECRET not in "".join(capfd.readouterr()), "by libraries"
        return done

    return run


def without_secrets(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def uri(wire: Wire, folder: str, bucket: str = BUCKET) -> str:
    place = f"{KEYS['AWS_ACCESS_KEY_ID']}:{SECRET}@{bucket}/{folder}"
    return f"s3://{place}?scheme=http&endpoint_override=127.0.0.1:{wire.port}"


def test_commands_that_work_show_and_write_no_secret(command: Command, wire: Wire, tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    flags = [
        *("--model", tmp_path / "model", "--prompts", tmp_path / "mine.txt", "--modes", "normal", "--device", "cpu"),
        *("--max-new-tokens", "3", "--exit-every", "2", "--actors", "1", "--out", uri(wire, "mine")),
    ]
    done = command("sweep.py", "--dry-run", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["out", f"s3://…@{BUCKET}/mine?…"]
    done = command("sweep.py", *flags)
    assert done.returncode == 0, done.stderr
    *_, line, report = done.stdout.splitlines()
    assert report == f"s3://…@{BUCKET}/mine/report.html?…"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        names: dict[str, Any] = {}
        exec(line.replace("; pd.read", "; runs = pd.read"), names)
    assert len(names["runs"]) == 2
    again = command("sweep.py", *flags, "--json", tmp_path / "figures.json")
    assert again.stderr == (
        f"importing Ray\ninspecting the model\nnothing is left to do: 2 runs committed in s3://…@{BUCKET}/mine?…\n"
    )
    assert command("sweep.py", *flags, "--temperature", "1").returncode == 2
    assert command("report.py", uri(wire, "mine"), "--out", tmp_path / "report.html").returncode == 0

    filesystem, root = fs.FileSystem.from_uri(uri(wire, ""))
    written = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    files = [info.path for info in written if info.type == fs.FileType.File]
    assert {f"{BUCKET}/mine/sweep.json", f"{BUCKET}/mine/report.html"} <= set(files)
    for path in files:
        with filesystem.open_input_stream(path) as stream:
            assert SECRET.encode() not in stream.read(), path
    for path in (
        tmp_path / "report.html",
        tmp_path / "figures.json",
        *(path for path in SHARED_RAY.folder.rglob("*") if path.is_file()),
    ):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep.py", "--out", "{nowhere}"],
        ["sweep.py", "--out", "{odd}"],
        ["sweep.py", "--out", "{slash}"],
        ["sweep.py", "--out", "s3:/k:{secret}@bucket/x"],
        ["sweep.py", "--model", "{nowhere}"],
        ["sweep.py", "--prompts", "{nowhere}"],
        ["sweep.py", "--config", "{nowhere}"],
        ["sweep.py", "{nowhere}"],
        ["report.py", "{nowhere}", "--out", "report.html"],
        ["report.py", "{empty}", "--out", "report.html"],
        ["report.py", "{odd}", "--out", "report.html"],
        ["report.py", "{slash}", "--out", "report.html"],
        ["report.py", "{nowhere}"],
        ["report.py", "{nowhere}", "--serve"],
        ["report.py", "x", "{nowhere}"],
        ["bench", "{nowhere}"],
    ],
)
def test_commands_that_fail_show_no_secret(
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    places = {
        "nowhere": uri(wire, "x", "no-such-bucket"),
        "empty": uri(wire, "nothing"),
        "odd": f"s3://k:{SECRET}@bucket/[x",
        "slash": f"s3://k:{SECRET}/a@bucket/x",
        "secret": SECRET,
    }
    script, *others = arguments
    done = here(FUNCTIONS[script], *(argument.format(**places) for argument in others))
    by_libraries = capfd.readouterr()
    said = done.stderr + by_libraries.err
    assert done.returncode in (1, 2)
    assert SECRET not in done.stdout + by_libraries.out + said
    assert "Traceback" not in said
    assert len(without_steps(said).splitlines()) <= 2


def test_what_is_logged_shows_no_secret() -> None:
    def say(arguments: list[str]) -> int:
        log_to_stderr()
        place = f"s3://k:{SECRET}@b/x"
        log("commit failed", reason=f"{place} is full", nested={"out": place})
        return 0

    done = here(say)
    assert SECRET not in done.stderr
    assert json.loads(done.stderr)["reason"] == "s3://…@b/x is full"
