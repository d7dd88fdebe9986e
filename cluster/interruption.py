"""Ctrl-C, SIGTERM (`ray job stop`, batch systems) and SIGHUP (a closed terminal) end a sweep in the same way.

Windows has no SIGHUP.

So does the end of the time that work was given, in `until`.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_came = threading.Event()
_listening = False
_end = math.inf  # of the time that work was given, by time.monotonic()


class TimeIsUpError(Exception):
    """The time that work was given is over. What has landed stays."""


@contextmanager
def listening() -> Iterator[None]:
    """A context in which the first of these signals raises `KeyboardInterrupt`, and further ones are ignored.

    So cleaning up is not interrupted. After the context the process ignores them all: it has nothing left to do but to
    end, and the default handlers would kill it while it is still cleaning up.
    """
    global _listening
    _came.clear()
    _listening = True
    listen_again()
    try:
        yield
    finally:
        _listening = False
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def listen_again() -> None:
    """Install the handlers again, after a library may have replaced them, perhaps from outside Python.

    Signals that the shell had this process ignore, as `nohup` does, stay ignored. Does nothing outside `listening`.
    """
    if _listening:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)


def check() -> None:
    """Raises `KeyboardInterrupt` if a signal came: Python drops exceptions that are raised in a finaliser.

    Raises `TimeIsUpError` if the time is over that `until` gave.
    """
    if _listening and _came.is_set():
        raise KeyboardInterrupt
    if time.monotonic() > _end:
        raise TimeIsUpError


@contextmanager
def until(end: float) -> Iterator[None]:
    """A context whose work has time until then, by time.monotonic(), and no longer than one around it has."""
    global _end
    before, _end = _end, min(_end, end)
    try:
        yield
    finally:
        _end = before


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _came.is_set():
        _came.set()
        raise KeyboardInterrupt
