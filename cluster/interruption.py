"""Ctrl-C, SIGTERM (`ray job stop`, batch systems) and SIGHUP (a closed terminal) end a sweep in the same way.

Windows has no SIGHUP.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_came = threading.Event()
_listening = False


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
    """Raises `KeyboardInterrupt` if a signal came: Python drops exceptions that are raised in a finaliser."""
    if _listening and _came.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _came.is_set():
        _came.set()
        raise KeyboardInterrupt
