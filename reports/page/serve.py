"""A server of one report, for this machine only. It rebuilds the report after more runs of the sweep were committed.

An open page requests its ETag every few seconds, and reloads if there is a newer page (`template/follow.js`). Only the
page and its side files are served. The Host header must be a loopback name, so that no web site can read them by DNS
rebinding.
"""

import errno
import hashlib
import shutil
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from eexit.errors import UsageError
from eexit.results.layout import GENERATIONS_FOLDER, REPORT
from reports.page.build import PageOptions, build_report, side_folder
from reports.read.sweep import NotASweepError, read_sweep

FOLLOW_SECONDS: Final = 15  # between two ETag requests of an open page
IDLE_SECONDS: Final = 60  # after which an idle connection is closed
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
TYPES: Final = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class ReportHandler(BaseHTTPRequestHandler):
    """HTTP handler that sends the page or a side file. It first rebuilds the page if more runs were committed."""

    server: "ReportServer"
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if not loopback(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "Only loopback names are served, such as 127.0.0.1 or localhost")
            return
        path = self.path.partition("?")[0]
        if path in ("/", f"/{REPORT}"):
            try:
                self.send(self.server.page())
            except (UsageError, OSError) as error:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The results can't be read", str(error))
        elif side := self.server.side_files().get(path):
            self.send(side)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def send(self, file: Path) -> None:
        with file.open("rb") as content:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", TYPES[file.suffix])
            self.send_header("Content-Length", str(file.stat().st_size))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")  # side files are scripts
            self.send_header("ETag", f'"{file.stem}"')
            self.end_headers()
            if self.command != "HEAD":
                shutil.copyfileobj(content, self.wfile)

    def log_message(self, *args: Any) -> None:
        """Log nothing, so that the address stays visible in the terminal."""


class ReportServer(ThreadingHTTPServer):
    """HTTP server that builds the page of `results` in `folder`, under a name that depends on the committed files."""

    daemon_threads = True

    def __init__(self, results: str, port: int, folder: str, options: PageOptions) -> None:
        self.results, self.folder = results, Path(folder)
        self.options = replace(options, follow_seconds=FOLLOW_SECONDS)
        self.building = threading.Lock()
        self.built: list[Path] = []
        self.ended = False
        super().__init__(("127.0.0.1", port), ReportHandler)

    def page(self) -> Path:
        """Return the page of all committed runs. Build it if it is new, then delete all but the two latest pages."""
        with self.building:
            path = self.folder / f"{committed_digest(self.results)}.html"
            if path not in self.built:
                build_report(self.results, path, self.options, self.go_on)
                # A browser may still show the previous page, and request its side files.
                self.built = [*self.built[-1:], path]
                self.clear()
            return path

    def side_files(self) -> dict[str, Path]:
        """Return URL path → side file (tokens that a page loads on demand), for the pages that still exist."""
        folders = [side_folder(path) for path in self.built]
        return {f"/{side.relative_to(self.folder)}": side for folder in folders for side in folder.glob("*.js")}

    def clear(self) -> None:
        for path in set(self.folder.glob("*.html")) - set(self.built):
            path.unlink()
            shutil.rmtree(side_folder(path), ignore_errors=True)

    def go_on(self, step: str) -> None:
        """Raise `KeyboardInterrupt` if the server has ended, which stops a running build."""
        if self.ended:
            raise KeyboardInterrupt

    def server_close(self) -> None:
        """Wait for a running build to stop, so that it writes nothing into a folder that is being removed."""
        self.ended = True
        super().server_close()
        with self.building:
            pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report no error when a browser closes the connection early, or when the server ends."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | KeyboardInterrupt):
            super().handle_error(request, client_address)


def loopback(host: str) -> bool:
    """Return True if a Host header is a loopback name, with any port or none."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower() in LOOPBACK


def committed_digest(results: str) -> str:
    """Return a short digest of the committed files' names, which changes with each further file."""
    names = sorted(path.name for path in Path(results, GENERATIONS_FOLDER).glob("*.parquet"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def serve(results: str, port: int, options: PageOptions) -> int:
    """Serve the report until `KeyboardInterrupt`. Raise `NotASweepError` if `results` is not a local folder with a
    sweep, and `UsageError`, with another port to try, if `port` can't be used.
    """
    if not Path(results).is_dir():
        raise NotASweepError(f"no such folder: {results} (--serve is for local folders)")
    read_sweep(results)
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory() as folder,
        make_server(results, port, folder, options) as server,
    ):
        print(f"http://127.0.0.1:{server.server_port}/  (Ctrl+C ends it)", flush=True)
        server.serve_forever()
    return 0


def make_server(results: str, port: int, folder: str, options: PageOptions) -> ReportServer:
    if not 0 <= port <= 65535:
        raise UsageError(f"there is no port {port}, the last is 65535: try --serve {free_port()}")
    try:
        return ReportServer(results, port, folder, options)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed to you"
        raise UsageError(f"port {port} {why}: try --serve {free_port()}") from error


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
