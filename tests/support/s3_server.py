"""An S3 bucket on this machine: moto's server behind a proxy that can cut the connection during a write."""

import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

BUCKET = "sweeps"
KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Wire:
    """Proxy between its port and the server's. It cuts the connection after `cut_after` bytes of a request."""

    server: int
    cut_after: int | None = None
    n_cuts: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self.server))
                threading.Thread(target=self._carry, args=(client, upstream, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(upstream, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(1024):
                carried += len(data)
                if is_request and self.cut_after is not None and carried > self.cut_after:
                    self.n_cuts += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other thread closes the other end


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    """Yield the wire to a server with an empty bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it has a line for each request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    new_bucket = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    urllib.request.urlopen(new_bucket).close()
    wire = Wire(port)
    threading.Thread(target=wire.run, daemon=True).start()
    yield wire
    wire.listener.close()
    server.stop()
