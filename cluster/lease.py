"""One driver at a time on one `--out`: `lease.json` beside the results says who holds it.

A lease is a random token that is valid as long as it is renewed. A second driver that finds a lease watches it by its
own clock: the place is free once the lease has not changed for `STALE_SECONDS`, so that clocks of different machines
are never compared. If both share a process-id namespace, the second driver looks up the holder's process instead of
waiting; elsewhere (on another machine, in another container) the same id may belong to another process.

An actor lands results only under the lease that it was started with, so that actors of a dead driver do not interfere
with its successor; and only unless the lease fences it off, since a driver that gives up on an actor can't be sure that
it has ended.
"""

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from cluster.breaker import SweepStopped
from cluster.store import Store
from eexit.config import UsageError

LEASE = "lease.json"
SECONDS_BETWEEN_RENEWALS = 10.0
SECONDS_BETWEEN_LOOKS = 1.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 0.5  # if two drivers take a dead one's lease at once, the last to write gets it
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. `started` and `renewed` are Unix seconds by the holder's clock, for people to read.

    `namespace` identifies the process-id namespace, and `process_started` tells apart processes that had the same id;
    both are empty on systems that do not tell.
    """

    token: str
    host: str
    pid: int
    started: float
    renewed: float
    namespace: str = ""
    process_started: str = ""
    fenced: Sequence[str] = ()  # tokens of actors that were given up

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


class Lease:
    """A lease; after `take`, a thread renews it until it is released."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._makes_the_folder = not store.is_there
        now, pid, namespace = time.time(), os.getpid(), _namespace()
        started = _process_started(pid) if namespace else ""
        self._holder = Holder(uuid4().hex, socket.gethostname(), pid, now, now, namespace, started)
        self._lost = ""
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def token(self) -> str:
        return self._holder.token

    def take(self, say: Callable[[str], object]) -> None:
        """Become the holder, or the successor of a dead one. Raises `UsageError` if a living driver holds the lease."""
        held = _read(self._store)
        if held or not self._store.create(LEASE, _content(self._holder)):
            self._succeed(held or _read(self._store), say)
        self._thread.start()

    def check(self) -> None:
        """Raises `SweepStopped` if another driver has taken the lease."""
        if self._lost:
            raise SweepStopped(self._lost)

    def fence(self, actor: str) -> None:
        """Have the actor with this token land nothing from now on, even if its process goes on or wakes up later."""
        self._holder = replace(self._holder, fenced=(*self._holder.fenced, actor))
        self._renew()  # if it can't be written now, the next renewal writes it

    def release(self) -> None:
        """Remove the lease, if it is held; and the folder, if this lease made it and nothing else is in it."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        # A lease that can't be removed now, since the disk failed, is soon that of a dead process.
        with suppress(OSError, pa.ArrowException, UsageError):
            if is_held(self._store, self.token):
                self._store.remove(LEASE)
                if self._makes_the_folder:
                    self._store.remove_if_empty()

    def _succeed(self, held: Holder | None, say: Callable[[str], object]) -> None:
        if held:
            _wait_for_the_end_of(held, self._store, say)
        _write(self._store, self._holder)
        time.sleep(SETTLE_SECONDS)
        holder = _read(self._store)
        if holder is None or holder.token != self.token:
            raise UsageError(
                f"--out {self._store.root} is in use by {holder}, which was a moment faster: choose another --out"
            )

    def _keep(self) -> None:
        while not self._lost and not self._done.wait(SECONDS_BETWEEN_RENEWALS):
            self._renew()

    def _renew(self) -> None:
        # If the place can't be written to, landing finds out.
        with self._writing, suppress(OSError, pa.ArrowException, UsageError):
            holder = _read(self._store)
            if holder and holder.token != self.token:
                self._lost = f"another driver has taken over {self._store.root}: {holder}"
            else:
                _write(self._store, replace(self._holder, renewed=time.time()))


def say_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def hold(store: Store, say: Callable[[str], object] = say_aside) -> Iterator[Lease]:
    """A context that holds the lease of the results in `store`; calls `say` if it has to wait for it.

    Raises `UsageError` if a living driver holds it.
    """
    lease = Lease(store)
    atexit.register(lease.release)  # a signal may come at any moment, also during the release
    try:
        lease.take(say)
        yield lease
    finally:
        lease.release()
        atexit.unregister(lease.release)


def is_held(store: Store, token: str) -> bool:
    """Whether the current lease has this token. Raises `OSError`."""
    holder = _read(store)
    return holder is not None and holder.token == token


def is_fenced(store: Store, token: str, actor: str) -> bool:
    """Whether the actor with this token was given up by the holder of the lease with `token`, or that lease is over.

    Raises `OSError`.
    """
    holder = _read(store)
    return holder is None or holder.token != token or actor in holder.fenced


def _wait_for_the_end_of(held: Holder, store: Store, say: Callable[[str], object]) -> None:
    """Return once the lease `held` is known to be over. Raises `UsageError` once its holder is known to be alive."""
    in_use = f"--out {store.root} is in use by {held}"
    way_out = "wait for it, stop it, or choose another --out"
    alive = _is_alive(held)
    if alive:
        raise UsageError(f"{in_use}, which is running: {way_out}")
    if alive is False:
        return
    say(
        f"{in_use}. Whether it still runs can't be seen from here: unless it renews its lease, the place is free in "
        f"{STALE_SECONDS:g} s, and is then taken. To free it at once if it is dead, remove {store.root}/{LEASE}"
    )
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        now = _read(store)
        if now is None:
            return
        if now != held:
            raise UsageError(f"--out {store.root} is in use by {now}, which has just renewed its lease: {way_out}")


def _is_alive(holder: Holder) -> bool | None:
    """Whether the holder's process is alive; None if it is on another machine or in another container."""
    if not holder.namespace or (holder.host, holder.namespace) != (socket.gethostname(), _namespace()):
        return None
    try:
        os.kill(holder.pid, 0)
        return _process_started(holder.pid) == holder.process_started
    except ProcessLookupError:
        return False
    except OSError:  # another user's process may not be visible
        return None


def _namespace() -> str:
    """Identifies the boot of this machine and the process-id namespace; empty if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc is of another namespace than this process
            return ""
        return f"{BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_started(pid: int) -> str:
    """When a process started, in clock ticks since boot.

    Raises `ProcessLookupError` if it has ended or is a zombie, and `OSError` if it is not visible.
    """
    # The second field is the program's name in parentheses, which may contain anything.
    state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError
    return others[18]


def _read(store: Store) -> Holder | None:
    content = store.read(LEASE)
    if not content:
        return None
    try:
        said = json.loads(content)
        return Holder(**{field.name: said[field.name] for field in fields(Holder) if field.name in said})
    except (ValueError, TypeError) as error:
        raise UsageError(f"{store.root}/{LEASE} is no lease ({error}): remove it") from error


def _write(store: Store, holder: Holder) -> None:
    store.publish(LEASE, _content(holder))


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()
