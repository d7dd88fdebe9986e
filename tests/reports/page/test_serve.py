"""A served report: the requests that it answers, updates from its sweep, and its end."""

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
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from chart_fields import blob
from report_fixtures import Context, MakeSweep, Page, all_drawn
from synthetic_sweeps import CONFIGURATIONS, NORMAL_ALONE, shard

from reports import PageOptions
from reports.page import serve
from reports.page.serve import ReportServer, make_server

JOB = Path(__file__).parents[3] / "jobs" / "report.py"

Served = Callable[..., ReportServer]
Growing = tuple[Path, Callable[[], None]]
Followed = Callable[[str, list[tuple[str, float | None]]], tuple[Page, Callable[[], None]]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Yield served(folder, options) → a running server of its report."""
    servers = []

    def served(folder: Path, options: PageOptions | None = None) -> ReportServer:
        (tmp_path / "pages").mkdir()
        server = make_server(str(folder), 0, str(tmp_path / "pages"), options or PageOptions())
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield served
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def still(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportServer]:
    """Yield a server of a sweep that doesn't change, for tests that only send requests."""
    with make_server(
        str(make_sweep(1, NORMAL_ALONE)), 0, str(tmp_path_factory.mktemp("pages")), PageOptions()
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def grows(make_sweep: MakeSweep, folder: Path, configurations: list[tuple[str, float | None]]) -> Growing:
    """Return a sweep of two prompts, the second uncommitted so far, and a function that commits it."""
    n_runs = 2 * len(configurations)
    shutil.copytree(make_sweep(1, configurations, n_runs=n_runs), folder)

    def land() -> None:
        both = make_sweep(2, configurations, n_runs=n_runs)
        for name in ("tokens", "generations"):
            (folder / name / shard(0)).unlink()
            shutil.copy(both / name / shard(0), folder / name / shard(1))

    return folder, land


@pytest.fixture
def growing(make_sweep: MakeSweep, tmp_path: Path) -> Growing:
    """Return such a sweep whose report takes little time."""
    return grows(make_sweep, tmp_path / "growing", NORMAL_ALONE)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(server: ReportServer, path: str, method: str = "GET", host: str | None = None) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{server.server_port}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def test_a_page_has_another_name_once_more_has_landed(served: Served, growing: Growing) -> None:
    folder, land = growing
    server = served(folder)
    first = ask(server, "/")
    assert b"<title>" in first.body
    assert ask(server, "/", "HEAD").headers["ETag"] == first.headers["ETag"]
    land()
    assert ask(server, "/", "HEAD").headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("path", ["/%00", "/%2e%2e/etc/passwd", "/../x", "//[", "/pages", "/x?y", "/.", "*", "/a b%"])
def test_an_odd_path_is_not_found(still: ReportServer, path: str) -> None:
    assert ask(still, path.replace(" ", "%20")).status == 404


@pytest.mark.parametrize("path", ["/?a=1", "/report.html?b", "/"])
def test_the_page_is_all_there_is(still: ReportServer, path: str) -> None:
    answer = ask(still, path).body
    assert b'id="blob-payload"' in answer
    assert b"Directory listing" not in answer


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:x", ""])
def test_another_name_for_this_machine_gets_nothing(still: ReportServer, host: str) -> None:
    answer = ask(still, "/", host=host)
    assert answer.status == 403
    assert b"blob" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_loopback_names_get_the_page(still: ReportServer, host: str) -> None:
    assert ask(still, "/", "HEAD", host).status == 200


def test_a_served_page_has_what_was_asked_of_it(served: Served, answered: Path) -> None:
    page = ask(served(answered.parent, PageOptions(margin=0.075)), "/").body.decode()
    assert "7.5 points" in blob(page, "payload").decode()


def test_side_files_are_served_and_nothing_else_of_the_folder(served: Served, make_sweep: MakeSweep) -> None:
    server = served(make_sweep(2, NORMAL_ALONE), PageOptions(max_bytes=1))
    name = ask(server, "/", "HEAD").headers["ETag"].strip('"')
    side = ask(server, f"/{name}.data/prompt-1.js")
    assert side.headers["Content-Type"].startswith("text/javascript")
    assert side.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert side.body.startswith(b"eexitData(")
    for path in (f"/{name}.data/", f"/{name}.data/prompt-2.js", f"/{name}.html", f"/x/../{name}.data/prompt-1.js"):
        assert ask(server, path).status == 404


def test_pages_that_nobody_can_have_open_are_removed(served: Served, growing: Growing) -> None:
    folder, land = growing
    server = served(folder)
    ask(server, "/")
    land()
    ask(server, "/")
    (folder / "generations" / shard(1)).rename(folder / "generations" / shard(2))
    ask(server, "/")
    assert len(list(server.folder.glob("*.html"))) == 2


def test_an_idle_connection_keeps_nobody_waiting(still: ReportServer) -> None:
    with socket.create_connection(("127.0.0.1", still.server_port)):
        assert ask(still, "/").status == 200


def test_a_browser_that_goes_away_is_no_traceback(still: ReportServer, capfd: pytest.CaptureFixture[str]) -> None:
    ask(still, "/")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", still.server_port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            gone.recv(100)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # the next close is a reset
    assert ask(still, "/").status == 200
    time.sleep(0.5)
    assert capfd.readouterr().err == ""


def test_results_that_cannot_be_read_any_more_are_said_in_the_answer(
    served: Served, make_sweep: MakeSweep, tmp_path: Path
) -> None:
    folder = shutil.copytree(make_sweep(1, NORMAL_ALONE), tmp_path / "gone")
    server = served(folder)
    assert ask(server, "/").status == 200
    shutil.rmtree(folder)
    answer = ask(server, "/")
    assert answer.status == 503
    assert b"no such folder" in answer.body


@pytest.mark.parametrize("port", ["99999", "taken"])
def test_a_port_that_cannot_be_had_is_one_line_with_another(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        wanted = taken if port == "taken" else port
        assert runpy.run_path(str(JOB))["main"]([str(make_sweep(1, NORMAL_ALONE)), "--serve", wanted]) == 2
    said = capsys.readouterr().err
    found = re.fullmatch(rf"error: .*{wanted}.*: try --serve (\d+)\n", said)
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
        with closing(http.client.HTTPConnection("127.0.0.1", int(port))) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def followed(
    context: Context, served: Served, make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Followed]:
    """Yield followed(route, configurations) → an open page, and a function that commits the rest of its sweep."""
    monkeypatch.setattr(serve, "FOLLOW_SECONDS", 0.3)
    pages: list[Page] = []
    wrong: list[str] = []

    def followed(route: str, configurations: list[tuple[str, float | None]]) -> tuple[Page, Callable[[], None]]:
        folder, land = grows(make_sweep, tmp_path / "growing", configurations)
        server = served(folder)
        page = context().new_page()
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/{route}")
        page.locator("body[data-ready]").wait_for()
        page.evaluate("window.mine = 'the page that was opened'")
        return page, land

    yield followed
    for page in pages:
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


def test_a_run_with_a_pinned_token_is_followed_too(followed: Followed) -> None:
    page, land = followed("#/p/0/unfrozen/kl/1/vs/normal/t/4", [("normal", None), ("unfrozen", 1.0)])
    page.locator(".tokens").first.press("ArrowRight")
    land()
    page.locator("#pick-prompt option").nth(2).wait_for(state="attached")
    page.locator('.tokens:focus .pinned[data-i="5"]').wait_for()
    assert page.url.endswith("#/p/0/unfrozen/kl/1/vs/normal/t/5")
    assert (
        "Position 5 of 24" in page.locator(".pane").inner_text() or "position 5" in page.locator(".pane").inner_text()
    )


def test_nothing_is_drawn_anew_while_nothing_lands(followed: Followed) -> None:
    page, _ = followed("#/p/0", NORMAL_ALONE)
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    page.evaluate("document.querySelector('main h1').dataset.mine = 'drawn once'")
    page.wait_for_timeout(1500)
    assert len(asked) >= 2
    assert set(asked) == {"HEAD"}
    assert page.locator("h1[data-mine]").count() == 1
