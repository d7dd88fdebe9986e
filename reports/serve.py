"""A report that is built anew when its sweep has landed more; to this machine alone."""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from reports.page import build_report
from reports.sweep import NotASweepError, read_sweep

SECONDS = 15  # between two looks of an open page


class Handler(SimpleHTTPRequestHandler):
    """The files of `directory`, where the page of `results` is made whenever it's asked for and out of date."""

    def __init__(self, *address: Any, results: str, prompts: int | Sequence[str], directory: str) -> None:
        self.results, self.prompts = results, prompts
        super().__init__(*address, directory=directory)

    def do_GET(self) -> None:
        if self.path == "/":
            self.path = "/report.html"
        if self.path == "/report.html":
            self.refresh()
        super().do_GET()

    def refresh(self) -> None:
        mark, now = Path(self.directory, "landed.json"), json.dumps(landed(self.results))
        if not mark.exists() or mark.read_text() != now:
            build_report(self.results, Path(self.directory, "report.html"), prompts=self.prompts)
            mark.write_text(now)

    def end_headers(self) -> None:
        if self.path == "/report.html":
            self.send_header("Refresh", str(SECONDS))
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing: the terminal has the address to show."""


def landed(results: str) -> list[str]:
    return sorted(path.name for path in Path(results, "generations").glob("*.parquet"))


def serve(results: str, port: int, prompts: int | Sequence[str]) -> int:
    """Serve until interrupted. Raises NotASweepError where `results` is not a local folder with a sweep."""
    if not Path(results).is_dir():
        raise NotASweepError(f"no such folder: {results} (--serve is for local folders)")
    read_sweep(results)
    with tempfile.TemporaryDirectory() as folder, make_server(results, port, prompts, folder) as server:
        print(f"http://127.0.0.1:{server.server_port}/  (Ctrl+C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def make_server(results: str, port: int, prompts: int | Sequence[str], folder: str) -> HTTPServer:
    handler = partial(Handler, results=results, prompts=prompts, directory=folder)
    return HTTPServer(("127.0.0.1", port), handler)
