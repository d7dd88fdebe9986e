"""A judge behind a real HTTP server on loopback. It answers by a rule, and fails on demand."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = 7  # of each answer


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drops: bool = False  # ends the connection without an answer
    hangs: bool = False  # never answers
    reason: str | None = None  # text after the status
    endless: bytes = b""  # sent after the body, or as headers if it ends a line, until the client is gone
    pause: float = 0.0  # seconds between one and the next


def completion(said: dict[str, Any] | str) -> Response:
    content = said if isinstance(said, str) else json.dumps(said)
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return Response(body=json.dumps({"choices": choices, "usage": {"total_tokens": TOKENS}}).encode())


def refusal(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **fields: str) -> Response:
    return Response(status, json.dumps({"error": {"message": message, **fields}}).encode(), headers or {})


def scores_of(quoted: Mapping[str, str]) -> dict[str, int]:
    """Return scores that follow from the answer alone."""
    text = quoted["answer"]
    return {
        "coherence": 1 + len(text) % 5,
        "completeness": min(5, 1 + len(text) // 2),
        "clarity": 5 if text.isascii() else 1,
        "no_repetition": max(1, min(5, len(set(text)))),
    }


@dataclass
class Judge:
    """The judge with the requests so far. `fail` is called first, with the number of the request, from 0."""

    fail: Callable[[int], Response | None] = lambda number: None
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of the requests
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request, with names in lower case
    url: str = ""
    sent: int = 0  # bytes of endless responses
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def judging(**how: Any) -> Iterator[Judge]:
    judge = Judge(**how)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                number = len(judge.asked)
                judge.asked.append(body)
                judge.headers.append({name.lower(): value for name, value in self.headers.items()})
            response = judge.fail(number) or completion(scores_of(json.loads(body["messages"][1]["content"])))
            if response.hangs:
                judge.closing.wait()
            if response.hangs or response.drops:
                return
            self.send_response(response.status, response.reason)
            for name, value in {"Content-Type": "application/json", **response.headers}.items():
                self.send_header(name, value)
            if not response.endless:
                self.send_header("Content-Length", str(len(response.body)))
            if not response.endless.endswith(b"\n"):
                self.end_headers()
            self.flush_headers()
            self.wfile.write(response.body)
            while response.endless and not judge.closing.wait(response.pause):
                self.wfile.write(response.endless)
                judge.sent += len(response.endless)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as pool:
        vars(server)["handle_error"] = lambda *_: None  # clients that have given up are no error here
        judge.url = f"http://127.0.0.1:{server.server_port}/v1"
        pool.submit(server.serve_forever, poll_interval=0.01)
        try:
            yield judge
        finally:
            judge.closing.set()
            server.shutdown()
