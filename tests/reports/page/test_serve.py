"""A served report: the requests that it answers, an open page that follows its sweep, and the server's end."""

import http.client
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from chart_fields import blob
from report_fixtures import Context, MakeSweep, Page, all_drawn
from synthetic_sweeps import CONFIGURATIONS, NORMAL_ALONE, shard

from reports import PageOptions
from reports.page import serve
from reports.page.serve import make_server

JOB = Path(__file__).parents[3] / "jobs" / "report.py"
ODD = ("/%00", "/%2e%2e/etc/passwd", "/../x", "//[", "/pages", "/x?y", "/.", "*", "/a%20b%")
FOREIGN = ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:x", "")

Served = Callable[..., int]
Grids = list[tuple[str, float | None]]
Grow = Callable[..., tuple[Path, Callable[[], None]]]
Followed = Callable[[str, Grids], tuple[Page, Callable[[], None]]]


@contextmanager
def serving(folder: Path, pages: Path, **options: Any) -> Iterator[int]:
    """Serve the report of a sweep, and yield the port."""
    with make_server(str(folder), 0, str(pages), PageOptions(**options)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Yield served(folder, margin=…) → the port at which its report is served."""
    (tmp_path / "pages").mkdir()
    with ExitStack() as stack:
        yield lambda folder, **options: stack.enter_context(serving(folder, tmp_path / "pages", **options))


@pytest.fixture(scope="module")
def still(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Yield the port of a report that doesn't change, for tests that only send requests."""
    with serving(make_sweep(1, NORMAL_ALONE), tmp_path_factory.mktemp("pages")) as port:
        yield port


@pytest.fixture
def grow(make_sweep: MakeSweep, tmp_path: Path) -> Grow:
    """Return grow(configurations) → a sweep of two prompts, the second uncommitted, and a function that commits it."""

    def grow(configurations: Grids = NORMAL_ALONE) -> tuple[Path, Callable[[], None]]:
        n_runs = 2 * len(configurations)
        folder = shutil.copytree(make_sweep(1, configurations, n_runs=n_runs), tmp_path / "growing")

        def land() -> None:
            both = make_sweep(2, configurations, n_runs=n_runs)
            for name in ("tokens", "generations"):
                (folder / name / shard(0)).unlink()
                shutil.copy(both / name / shard(0), folder / name / shard(1))

        return folder, land

    return grow


def ask(
    port: int, path: str = "/", method: str = "GET", host: str = "127.0.0.1"
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the answer to a request, and its content."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer, answer.read()


def test_a_page_has_another_name_once_more_has_landed_and_those_before_the_last_two_are_removed(
    served: Served, grow: Grow, tmp_path: Path
) -> None:
    folder, land = grow()
    port = served(folder)
    first, body = ask(port)
    assert b"<title>" in body
    assert ask(port, method="HEAD")[0].headers["ETag"] == first.headers["ETag"]
    land()
    assert ask(port, method="HEAD")[0].headers["ETag"] != first.headers["ETag"]
    (folder / "generations" / shard(1)).rename(folder / "generations" / shard(2))
    ask(port)
    assert len(list((tmp_path / "pages").glob("*.html"))) == 2


@pytest.mark.parametrize(
    ("status", "path", "host"),
    [
        *((404, path, "localhost") for path in ODD),
        *((200, path, "localhost") for path in ("/?a=1", "/report.html?b", "/")),
        *((200, "/", host) for host in ("LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]")),
        *((403, "/", host) for host in FOREIGN),
    ],
)
def test_only_the_page_is_served_and_only_under_loopback_names(still: int, status: int, path: str, host: str) -> None:
    answer, body = ask(still, path, host=host)
    assert (answer.status, b'id="blob-payload"' in body) == (status, status == 200)


def test_options_are_served_and_side_files_but_nothing_else_of_the_folder(served: Served, one_mode: Path) -> None:
    port = served(one_mode, max_bytes=1, margin=0.075)
    page, body = ask(port)
    assert "7.5 points" in blob(body.decode(), "payload").decode()
    name = page.headers["ETag"].strip('"')
    side, body = ask(port, f"/{name}.data/prompt-1.js")
    assert side.headers["Content-Type"].startswith("text/javascript")
    assert side.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert body.startswith(b"eexitData(")
    for path in (f"/{name}.data/", f"/{name}.data/prompt-99.js", f"/{name}.html", f"/x/../{name}.data/prompt-1.js"):
        assert ask(port, path)[0].status == 404


def test_an_idle_connection_keeps_nobody_waiting_and_a_browser_that_goes_away_is_no_traceback(
    still: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", still)):
        assert ask(still)[0].status == 200
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", still)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            gone.recv(100)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # the next close is a reset
    assert ask(still)[0].status == 200
    time.sleep(0.5)
    assert capfd.readouterr().err == ""


def test_results_that_cannot_be_read_any_more_are_said_in_the_answer(served: Served, grow: Grow) -> None:
    folder, _ = grow()
    port = served(folder)
    shutil.rmtree(folder)
    answer, body = ask(port)
    assert answer.status == 503
    assert b"no such folder" in body


@pytest.mark.parametrize("port", ["99999", "taken"])
def test_a_port_that_cannot_be_had_is_one_line_with_another(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        wanted = taken if port == "taken" else port
        assert runpy.run_path(str(JOB))["main"]([str(make_sweep(1, NORMAL_ALONE)), "--serve", wanted]) == 2
    found = re.fullmatch(rf"error: .*{wanted}.*: try --serve (\d+)\n", capsys.readouterr().err)
    assert found
    assert 0 < int(found[1]) <= 65535
    assert found[1] != taken


@pytest.mark.usefixtures("interruptible")
def test_a_signal_removes_the_temporary_folder(make_sweep: MakeSweep, tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), str(make_sweep(1, NORMAL_ALONE)), "--serve", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        [port] = re.findall(r":(\d+)/", process.stdout.readline())
        assert ask(int(port))[0].status == 200
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def followed(context: Context, served: Served, grow: Grow, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    """Yield followed(route, configurations) → an open page, and a function that commits the rest of its sweep."""
    monkeypatch.setattr(serve, "FOLLOW_SECONDS", 0.3)
    page = context().new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def followed(route: str, configurations: Grids) -> tuple[Page, Callable[[], None]]:
        folder, land = grow(configurations)
        page.goto(f"http://127.0.0.1:{served(folder)}/{route}")
        page.locator("body[data-ready]").wait_for()
        page.evaluate("window.mine = 'the page that was opened'")
        return page, land

    yield followed
    page.close()
    assert not wrong


def test_a_page_follows_its_sweep_and_keeps_the_place(followed: Followed) -> None:
    page, land = followed("#/?open=all", CONFIGURATIONS)
    page.set_viewport_size({"width": 1000, "height": 500})
    all_drawn(page)
    page.get_by_role("combobox", name="Cells").select_option("Perplexity")
    page.evaluate("scrollTo(0, 900)")
    assert "7 of 14 runs" in page.locator("main").inner_text()
    land()
    page.locator("main").get_by_text("· 14 runs, none failed").wait_for()
    assert page.locator("#pick-prompt option").count() == 3
    assert page.evaluate("scrollY") == 900
    assert page.get_by_role("combobox", name="Cells").locator("option:checked").inner_text() == "Perplexity"
    assert page.evaluate("window.mine") == "the page that was opened"
    assert page.locator("#following").inner_text() == "Follows the sweep"


def test_a_pinned_token_stays_pinned_and_nothing_is_drawn_anew_while_nothing_lands(followed: Followed) -> None:
    page, land = followed("#/p/0/unfrozen/kl/1/vs/normal/t/4", [("normal", None), ("unfrozen", 1.0)])
    page.locator(".tokens").first.press("ArrowRight")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method))
    page.evaluate("document.querySelector('main h1').dataset.mine = 'drawn once'")
    page.wait_for_timeout(1500)
    assert len(asked) >= 2
    assert set(asked) == {"HEAD"}
    assert page.locator("h1[data-mine]").count() == 1
    land()
    page.locator("#pick-prompt option").nth(2).wait_for(state="attached")
    page.locator('.tokens:focus .pinned[data-i="5"]').wait_for()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/t/5")
    assert "position 5" in page.locator(".pane").inner_text().lower()
