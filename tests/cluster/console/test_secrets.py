"""Secrets in a URI never appear in the output of commands, failing ones included, in logs, results or reports."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from commands import here, without_steps
from pyarrow import fs
from ray_fixtures import SHARED_RAY
from s3_server import BUCKET, KEYS, Wire
from sweeping import flags_in

from eexit.output.events import log, log_to_stderr
from jobs import report, sweep

pytestmark = pytest.mark.usefixtures("local_ray")
SECRET = "THIS-IS-A-SECRET"
Command = Callable[..., subprocess.CompletedProcess[str]]
BENCH = Path(__file__).parents[3] / "jobs" / "bench" / "__main__.py"
FUNCTIONS = {"sweep": sweep.main, "report": report.main, "bench": run_path(str(BENCH))["main"]}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a job in this process, and sees to it that neither it nor a library printed a secret."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("COLUMNS", "100")

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = here(FUNCTIONS[name], *arguments)
        said = "".join((done.stdout, done.stderr, *capfd.readouterr()))
        assert SECRET not in said
        assert "Traceback" not in said
        return done

    return run


def uri(wire: Wire, folder: str, bucket: str = BUCKET) -> str:
    place = f"{KEYS['AWS_ACCESS_KEY_ID']}:{SECRET}@{bucket}/{folder}"
    return f"s3://{place}?scheme=http&endpoint_override=127.0.0.1:{wire.port}"


def test_commands_show_no_secret(command: Command, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("--modes", "normal", "--device", "cpu", "--max-new-tokens", "3", "--actors", "1")
    flags = [*flags_in(tmp_path, 2), *few, "--out", uri(wire, "mine")]
    done = command("sweep", "--dry-run", *flags)
    assert done.stdout.splitlines()[-1].split() == ["out", f"s3://…@{BUCKET}/mine?…"], done.stderr
    done = command("sweep", *flags)
    assert done.returncode == 0, done.stderr
    *_, line, page = done.stdout.splitlines()
    assert page == f"s3://…@{BUCKET}/mine/report.html?…"
    again = command("sweep", *flags, "--json", tmp_path / "figures.json")
    assert without_steps(again.stderr) == f"nothing is left to do: 2 runs committed in s3://…@{BUCKET}/mine?…\n"
    assert command("sweep", *flags, "--temperature", "1").returncode == 2
    assert command("report", uri(wire, "mine"), "--out", tmp_path / "report.html").returncode == 0
    filesystem, root = fs.FileSystem.from_uri(uri(wire, ""))
    written = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    files = [info.path for info in written if info.type == fs.FileType.File]
    assert {f"{BUCKET}/mine/sweep.json", f"{BUCKET}/mine/report.html"} <= set(files)
    for path in files:
        with filesystem.open_input_stream(path) as stream:
            assert SECRET.encode() not in stream.read(), path
    logs = [path for path in SHARED_RAY.folder.rglob("*") if path.is_file()]
    for path in (tmp_path / "report.html", tmp_path / "figures.json", *logs):
        assert SECRET.encode() not in path.read_bytes(), path
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    exec(line.replace("; pd.read", "; runs = pd.read"), names)
    assert len(names["runs"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "sweep --out {nowhere}", "sweep --out {odd}", "sweep --out {slash}", "sweep --out s3:/k:{secret}@bucket/x",
        "sweep --model {nowhere}", "sweep --prompts {nowhere}", "sweep --config {nowhere}", "sweep {nowhere}",
        "report {nowhere} --out report.html", "report {empty} --out report.html", "report {odd} --out report.html",
        "report {slash} --out report.html", "report {nowhere}", "report {nowhere} --serve", "report x {nowhere}",
        "bench {nowhere}",
    ],
)  # fmt: skip
def test_failures_show_no_secret(command: Command, wire: Wire, tmp_path: Path, monkeypatch: Any, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere, empty = uri(wire, "x", "no-such-bucket"), uri(wire, "nothing")
    odd, slash = f"s3://k:{SECRET}@bucket/[x", f"s3://k:{SECRET}/a@bucket/x"
    places = {"nowhere": nowhere, "empty": empty, "odd": odd, "slash": slash, "secret": SECRET}
    done = command(*(word.format(**places) for word in line.split()))
    assert done.returncode in (1, 2)
    assert len(without_steps(done.stderr).splitlines()) <= 2


def test_what_is_logged_shows_no_secret() -> None:
    def say(arguments: list[str]) -> int:
        log_to_stderr()
        log("commit failed", reason=f"s3://k:{SECRET}@b/x is full", nested={"out": f"s3://k:{SECRET}@b/x"})
        return 0

    said = here(say).stderr
    assert json.loads(said)["reason"] == "s3://…@b/x is full"
    assert SECRET not in said
