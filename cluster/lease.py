"""One driver at a time on one `--out`: `lease.json` beside the results says who holds it.

The holder renews it; a second driver refuses, naming the first. The lease of a dead driver can be taken: at once where
its process is known to be gone (it ran on this machine), else when it has not been renewed for a while. An actor lands
only under the lease it was started with, so that what a dead driver left running lands nothing in its successor's way,
and only as long as the lease does not fence it off: a driver that gives up an actor can't be sure that it has ended.
The clocks of the machines need to agree to within seconds.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from cluster.breaker import SweepStopped
from cluster.store import Store
from eexit.config import UsageError

NAME = "lease.json"
SECONDS_BETWEEN_RENEWALS = 10.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 0.5  # two that take a dead one's lease at once: the last to write has it
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease; times are Unix seconds."""

    token: str
    host: str
    boot: str
    pid: int
    started: float
    renewed: float
    fenced: Sequence[str] = ()  # tokens of actors that were given up

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


class Lease:
    """A held lease, renewed from a thread of its own."""

    def __init__(self, store: Store, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self._lost = ""
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        return self._holder.token

    def check(self) -> None:
        """Raises `SweepStopped` if someone else holds it by now."""
        if self._lost:
            raise SweepStopped(self._lost)

    def fence(self, actor: str) -> None:
        """The actor with this token lands nothing from now on, even if its process goes on or wakes up later."""
        self._holder = replace(self._holder, fenced=(*self._holder.fenced, actor))
        self._renew()  # if it can't be written now, the next renewal writes it

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        # What can't be removed now, on a disk that failed, is a dead process's lease a moment later.
        with suppress(OSError, pa.ArrowException):
            if is_held(self._store, self.token):
                self._store.remove(NAME)

    def _keep(self) -> None:
        while not self._lost and not self._done.wait(SECONDS_BETWEEN_RENEWALS):
            self._renew()

    def _renew(self) -> None:
        # A place that can't be written to is found out by landing.
        with self._writing, suppress(OSError, pa.ArrowException):
            holder = _read(self._store)
            if holder and holder.token != self.token:
                self._lost = f"another driver has taken over {self._store.root}: {holder}"
            else:
                _write(self._store, replace(self._holder, renewed=time.time()))


@contextmanager
def hold(store: Store) -> Iterator[Lease]:
    """Hold the lease of the results in `store`. Raises `UsageError` if a living driver does."""
    lease = Lease(store, _take(store))
    try:
        yield lease
    finally:
        lease.release()


def is_held(store: Store, token: str) -> bool:
    """Whether the lease is still the one with this token. Raises `OSError`."""
    holder = _read(store)
    return holder is not None and holder.token == token


def is_fenced(store: Store, token: str, actor: str) -> bool:
    """Whether an actor, known by its own token, was given up by the holder of the lease with `token`, or that is over.

    Raises `OSError`.
    """
    holder = _read(store)
    return holder is None or holder.token != token or actor in holder.fenced


def _take(store: Store) -> Holder:
    now = time.time()
    mine = Holder(uuid4().hex, socket.gethostname(), _boot(), os.getpid(), now, now)
    held = _read(store)
    if held is None and store.create(NAME, _content(mine)):
        return mine
    held = held or _read(store)
    if held and not _is_over(held):
        silent = max(0, round(now - held.renewed))
        raise UsageError(
            f"--out {store.root} is in use by {held} (last heard of {silent} s ago): wait for it, stop it, or choose "
            f"another --out; if it is dead, its place is free {STALE_SECONDS:g} s after it was last heard of"
        )
    _write(store, mine)
    time.sleep(SETTLE_SECONDS)
    holder = _read(store)
    if holder is None or holder.token != mine.token:
        raise UsageError(f"--out {store.root} is in use by {holder}, which was a moment faster: choose another --out")
    return mine


def _is_over(holder: Holder) -> bool:
    if holder.host == socket.gethostname() and holder.boot == _boot():
        return not _is_alive(holder.pid)
    return time.time() - holder.renewed > STALE_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str:
    """What differs after the machine was started anew; empty where that can't be told."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def _read(store: Store) -> Holder | None:
    content = store.read(NAME)
    if not content:
        return None
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{store.root}/{NAME} is no lease ({error}): remove it") from error


def _write(store: Store, holder: Holder) -> None:
    store.publish(NAME, _content(holder))


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()
