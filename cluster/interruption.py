"""Ctrl-C, SIGTERM (`ray job stop`, batch systems) and SIGHUP (a closed terminal) end a sweep in the same way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_came = threading.Event()
_listening = False


@contextmanager
def listening() -> Iterator[None]:
    """Within it the first of them raises `KeyboardInterrupt`, and the others nothing: what follows is to clear away.

    Afterwards this process ignores them, since a command has nothing left to do then but to end: Python would give them
    back to the system, which ends a process that is still clearing away.
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
    """To be called where a library may have put a handler of its own in place, perhaps without Python's knowing.

    What the caller's shell had this process ignore, as `nohup` does, stays ignored. Does nothing unless `listening`.
    """
    if _listening:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)


def check() -> None:
    """Raises `KeyboardInterrupt` if one came: Python drops an exception that is raised while an object is deleted."""
    if _listening and _came.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _came.is_set():
        _came.set()
        raise KeyboardInterrupt
