"""Leases: files beside the results by which only one process at a time drives, times, judges or assesses a sweep.

A lease is a random token that is valid as long as it is renewed. A second driver that finds a lease observes it by its
own clock: the location is free once the lease has not changed for `STALE_SECONDS`. Clocks of different machines are
therefore never compared. If both drivers share a process-id namespace, the second one checks the holder's process
instead of waiting. Elsewhere (on another machine, in another container) the same id may belong to another process.

An actor commits results only under the lease that it was started with, so that a dead driver's actors can't interfere
with its successor. The lease can also fence off an actor: a driver that gives up on an actor can't be sure that it has
ended.
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

from eexit.errors import SweepStopped, UsageError
from eexit.results.store.folder import Store

LEASE = "lease.json"
SECONDS_BETWEEN_RENEWALS = 10.0
SECONDS_BETWEEN_POLLS = 1.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 0.5  # if two drivers take a dead driver's lease at once, the last to write gets it
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class LeasePurpose:
    """Activity that only one process at a time may perform: the file of its lease, and words for messages."""

    file: str
    in_use: str  # precedes the holder in messages; {} is the location
    way_out: str
    late: str  # way out for a process that was a moment slower


DRIVING = LeasePurpose(
    LEASE, "--out {} is in use by", "wait for it, stop it, or choose another --out", late="choose another --out"
)
TIMING = LeasePurpose(
    LEASE, "{} is in use by", "wait for it, or stop it, since times mean nothing beside it", late="wait for it"
)
JUDGING = LeasePurpose("judging-lease.json", "{} is being judged by", "wait for it, or stop it", late="wait for it")
ASSESSING = LeasePurpose(
    "assessment-lease.json", "{} is being assessed by", "wait for it, or stop it", late="choose another --out"
)


@dataclass(frozen=True)
class LeaseHolder:
    """Process that holds a lease. `started` and `renewed` are Unix seconds by the holder's clock, for people to read.

    `namespace` identifies the process-id namespace, and `process_started` distinguishes processes that had the same id.
    Both are empty on systems that do not provide them.
    """

    token: str
    host: str
    pid: int
    started: float
    renewed: float
    namespace: str = ""
    process_started: str = ""
    fenced: Sequence[str] = ()  # tokens of actors that the driver has given up on

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


class Lease:
    """Lease on a results folder. After `take`, a thread renews the lease until it is released."""

    def __init__(self, store: Store, use: LeasePurpose = DRIVING) -> None:
        self._store, self._use = store, use
        self._makes_the_folder = not store.is_there
        now, pid, namespace = time.time(), os.getpid(), _namespace()
        started = _process_started(pid) if namespace else ""
        self._holder = LeaseHolder(uuid4().hex, socket.gethostname(), pid, now, now, namespace, started)
        self._lost = ""
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def token(self) -> str:
        return self._holder.token

    def take(self, say: Callable[[str], object]) -> None:
        """Become the holder, or the successor of a dead one; `say` gets a line if that takes waiting.

        Raise `UsageError` if a living driver holds the lease.
        """
        held = self._read()
        if held or not self._store.create(self._use.file, _content(self._holder)):
            self._succeed(held or self._read(), say)
        self._thread.start()

    def check(self) -> None:
        """Raise `SweepStopped` if another driver has taken over the lease."""
        if self._lost:
            raise SweepStopped(self._lost)

    def fence(self, actor: str) -> None:
        """Forbid the actor with this token to commit from now on, even if its process continues or wakes up later."""
        self._holder = replace(self._holder, fenced=(*self._holder.fenced, actor))
        self._renew()  # if writing fails now, the next renewal writes it

    def release(self) -> None:
        """Remove this process's lease, and the folder if this lease created it and it is empty."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        # If a failing disk keeps the lease from being removed, it soon belongs to a dead process.
        with suppress(OSError, pa.ArrowException, UsageError):
            if (holder := self._read()) and holder.token == self.token:
                self._store.remove(self._use.file)
                if self._makes_the_folder:
                    self._store.remove_if_empty()

    def _succeed(self, held: LeaseHolder | None, say: Callable[[str], object]) -> None:
        if held:
            _wait_for_the_end_of(held, self._store, self._use, say)
        self._store.publish(self._use.file, _content(self._holder))
        time.sleep(SETTLE_SECONDS)
        holder = self._read()
        if holder is None or holder.token != self.token:
            in_use = self._use.in_use.format(self._store.root)
            raise UsageError(f"{in_use} {holder}, which was a moment faster: {self._use.late}")

    def _keep(self) -> None:
        while not self._lost and not self._done.wait(SECONDS_BETWEEN_RENEWALS):
            self._renew()

    def _renew(self) -> None:
        # If the location can't be written to, committing a shard raises.
        with self._writing, suppress(OSError, pa.ArrowException, UsageError):
            holder = self._read()
            if holder and holder.token != self.token:
                self._lost = f"another driver has taken over {self._store.root}: {holder}"
            else:
                self._store.publish(self._use.file, _content(replace(self._holder, renewed=time.time())))

    def _read(self) -> LeaseHolder | None:
        return _read(self._store, self._use)


def say_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def hold(store: Store, say: Callable[[str], object] = say_aside, use: LeasePurpose = DRIVING) -> Iterator[Lease]:
    """Hold the lease for a use of the results in `store`; call `say` if it has to wait for the lease.

    Raise `UsageError` if a living driver holds the lease.
    """
    lease = Lease(store, use)
    atexit.register(lease.release)  # a signal may come at any moment, also during the release
    try:
        lease.take(say)
        yield lease
    finally:
        lease.release()
        atexit.unregister(lease.release)


def refuse_if_held(store: Store, use: LeasePurpose) -> None:
    """Raise `UsageError` if another process that is known to be alive holds the lease for this use."""
    held = _read(store, use)
    if held and _is_alive(held) and held.pid != os.getpid():
        raise UsageError(f"{use.in_use.format(store.root)} {held}, which is running: {use.way_out}")


def is_fenced(store: Store, token: str, actor: str) -> bool:
    """Return True if the actor with token `actor` may not commit: the lease with `token` is over, or fences it off.

    Raise `OSError` if the lease can't be read.
    """
    holder = _read(store, DRIVING)
    return holder is None or holder.token != token or actor in holder.fenced


def _wait_for_the_end_of(held: LeaseHolder, store: Store, use: LeasePurpose, say: Callable[[str], object]) -> None:
    """Return once the lease `held` is known to be over. Raise `UsageError` once its holder is known to be alive."""
    in_use = use.in_use.format(store.root)
    alive = _is_alive(held)
    if alive:
        raise UsageError(f"{in_use} {held}, which is running: {use.way_out}")
    if alive is False:
        return
    say(
        f"{in_use} {held}. Whether it still runs can't be seen from here: unless it renews its lease, the place is "
        f"free in {STALE_SECONDS:g} s, and is then taken. To free it at once if it is dead, remove "
        f"{store.root}/{use.file}"
    )
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_POLLS)
        now = _read(store, use)
        if now is None:
            return
        if now != held:
            raise UsageError(f"{in_use} {now}, which has just renewed its lease: {use.way_out}")


def _is_alive(holder: LeaseHolder) -> bool | None:
    """Return True if the holder's process is alive; None if it is on another machine or in another container."""
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
    """Return an identifier of this machine's boot and the process-id namespace; empty if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc belongs to another namespace
            return ""
        return f"{BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_started(pid: int) -> str:
    """Return a process's start in clock ticks since boot. Raise `ProcessLookupError` if it has ended, or `OSError`."""
    # The second field is the program's name in parentheses, which may contain anything.
    state, *process_fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError
    return process_fields[18]


def _read(store: Store, use: LeasePurpose) -> LeaseHolder | None:
    content = store.read(use.file)
    if not content:
        return None
    try:
        said = json.loads(content)
        return LeaseHolder(**{field.name: said[field.name] for field in fields(LeaseHolder) if field.name in said})
    except (ValueError, TypeError) as error:
        raise UsageError(f"{store.root}/{use.file} is no lease ({error}): remove it") from error


def _content(holder: LeaseHolder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()
