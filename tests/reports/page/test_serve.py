"""A served report: the requests that it answers, an open page that follows its sweep, and the server's end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from chart_fields import blob
from commands import refusal
from report_fixtures import Context, MakeSweep, all_drawn
from synthetic_sweeps import CONFIGURATIONS, NORMAL_ALONE, shard

from jobs import report
from reports import PageOptions
from reports.page import serve
from reports.page.serve import make_server

ODD = ("/%00", "/%2e%2e/etc/passwd", "/../x", "//[", "/pages", "/x?y", "/.", "*", "/a%20b%")
FOREIGN = ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:x", "")


@contextmanager
def serving(folder: Path, pages: Path, **options: Any) -> Iterator[int]:
    """Serve the report of a sweep, and yield the port."""
    with make_server(str(folder), 0, str(pages), PageOptions(**options)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def growing(make_sweep: MakeSweep, folder: Path, grid: list[Any] = NORMAL_ALONE) -> Callable[[], None]:
    """Write a sweep of two prompts, the second uncommitted, and return a function that commits it."""
    shutil.copytree(make_sweep(1, grid, n_runs=2 * len(grid)), folder)

    def land() -> None:
        both = make_sweep(2, grid, n_runs=2 * len(grid))
        for name in ("tokens", "generations"):
            (folder / name / shard(0)).unlink()
            shutil.copy(both / name / shard(0), folder / name / shard(1))

    return land


def ask(port: int, path: str = "/", method: str = "GET", host: str = "127.0.0.1") -> tuple[HTTPResponse, bytes]:
    """Return the answer to a request, and its content."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer, answer.read()


def test_a_page_has_another_name_once_more_is_committed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """The last two pages stay. Results that can't be read any more are named in the answer."""
    folder = tmp_path / "growing"
    land = growing(make_sweep, folder)
    with serving(folder, tmp_path) as port:
        first, body = ask(port)
        assert b"<title>" in body
        assert ask(port, method="HEAD")[0].headers["ETag"] == first.headers["ETag"]
        land()
        assert ask(port, method="HEAD")[0].headers["ETag"] != first.headers["ETag"]
        (folder / "generations" / shard(1)).rename(folder / "generations" / shard(2))
        ask(port)
        assert len(list(tmp_path.glob("*.html"))) == 2
        shutil.rmtree(folder)
        answer, body = ask(port)
        assert (answer.status, b"no such folder" in body) == (503, True)


def test_only_the_page_and_its_side_files_are_served_under_loopback_names(tmp_path: Path, one_mode: Path) -> None:
    """The page has the options of the command."""
    with serving(one_mode, tmp_path, max_bytes=1, margin=0.075) as port:
        page, body = ask(port)
        assert "7.5 points" in blob(body.decode(), "payload").decode()
        folder = f"/{page.headers['ETag'].strip(chr(34))}.data"
        side, body = ask(port, f"{folder}/prompt-1.js")
        assert side.headers["Content-Type"].startswith("text/javascript")
        assert side.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert body.startswith(b"eexitData(")
        others = f"{folder}/", f"{folder}/prompt-99.js", f"{folder[:-5]}.html", f"/x/..{folder}/prompt-1.js"
        requests = [*((404, path, "localhost") for path in (*ODD, *others)), *((403, "/", host) for host in FOREIGN)]
        requests += [(200, path, "localhost") for path in ("/?a=1", "/report.html?b", "/")]
        requests += [(200, "/", host) for host in ("LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]")]
        for status, path, host in requests:
            answer, body = ask(port, path, host=host)
            assert (answer.status, b'id="blob-payload"' in body) == (status, status == 200), (path, host)


def test_idle_connections_and_browsers_that_go_away(
    make_sweep: MakeSweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(make_sweep(1, NORMAL_ALONE), tmp_path) as port:
        with socket.create_connection(("127.0.0.1", port)):
            assert ask(port)[0].status == 200
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                gone.recv(100)
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # the next close is a reset
        assert ask(port)[0].status == 200
        time.sleep(0.5)
    assert capfd.readouterr().err == ""


def test_a_port_that_cannot_be_had_is_one_line_with_another(make_sweep: MakeSweep) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        for wanted in ("99999", taken):
            line = refusal(report.main, make_sweep(1, NORMAL_ALONE), "--serve", wanted)
            [other_port] = re.findall(rf"^error: .*{wanted}.*: try --serve (\d+)$", line)
            assert 0 < int(other_port) <= 65535
            assert other_port != taken


@pytest.mark.usefixtures("interruptible")
def test_a_signal_removes_the_temporary_folder(make_sweep: MakeSweep, tmp_path: Path) -> None:
    command = [sys.executable, str(report.__file__), str(make_sweep(1, NORMAL_ALONE)), "--serve", "0"]
    environment, pipe = os.environ | {"TMPDIR": str(tmp_path)}, subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout
        [port] = re.findall(r":(\d+)/", process.stdout.readline())
        assert (ask(int(port))[0].status, len(list(tmp_path.iterdir()))) == (200, 1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert (process.returncode, list(tmp_path.iterdir())) == (0, [])


def test_a_page_follows_its_sweep_and_keeps_the_place(
    context: Context, make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pinned token stays pinned, and nothing is drawn anew while nothing is committed."""
    monkeypatch.setattr(serve, "FOLLOW_SECONDS", 0.3)
    land = growing(make_sweep, tmp_path / "growing", CONFIGURATIONS)
    page, run, wrong, asked = context().new_page(), context().new_page(), list[str](), list[str]()
    with serving(tmp_path / "growing", tmp_path) as port:
        for each, route in ((page, "#/?open=all"), (run, "#/p/0/unfrozen/kl/1/vs/normal/t/4")):
            each.on("pageerror", lambda error: wrong.append(str(error)))
            each.goto(f"http://127.0.0.1:{port}/{route}")
            each.locator("body[data-ready]").wait_for()
            each.evaluate("window.mine = 'the page that was opened'")
        page.set_viewport_size({"width": 1000, "height": 500})
        all_drawn(page).get_by_role("combobox", name="Cells").select_option("Perplexity")
        page.evaluate("scrollTo(0, 900)")
        assert "7 of 14 runs" in page.locator("main").inner_text()
        run.locator(".tokens").first.press("ArrowRight")
        run.on("request", lambda request: asked.append(request.method))
        run.evaluate("document.querySelector('main h1').dataset.mine = 'drawn once'")
        run.wait_for_timeout(1500)
        assert len(asked) >= 2
        assert ({*asked}, run.locator("h1[data-mine]").count()) == ({"HEAD"}, 1)
        land()
        page.locator("main").get_by_text("· 14 runs, none failed").wait_for()
        assert page.locator("#pick-prompt option").count() == 3
        assert page.evaluate("scrollY") == 900
        assert page.get_by_role("combobox", name="Cells").locator("option:checked").inner_text() == "Perplexity"
        assert page.locator("#following").inner_text() == "Follows the sweep"
        run.locator("#pick-prompt option").nth(2).wait_for(state="attached")
        run.locator('.tokens:focus .pinned[data-i="5"]').wait_for()
        assert run.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/t/5")
        assert "position 5" in run.locator(".pane").inner_text().lower()
        assert page.evaluate("window.mine") == run.evaluate("window.mine") == "the page that was opened"
        page.close()
        run.close()
        assert not wrong
