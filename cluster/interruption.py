"""Ctrl-C, SIGTERM (`ray job stop`, batch systems) and SIGHUP (a closed terminal) end a sweep in the same way."""

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_came = threading.Event()


def listen() -> None:
    """Have the first of them raise `KeyboardInterrupt`, and the others nothing: what follows is to clear away.

    To be called again whenever a library may have put a handler of its own in place, perhaps without Python's knowing.
    What the caller's shell had this process ignore, as `nohup` does, stays ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raises `KeyboardInterrupt` if one came: Python drops an exception that is raised while an object is deleted."""
    if _came.is_set():
        raise KeyboardInterrupt


def leave() -> None:
    """From now on none of them raises anything: all is done but to leave."""
    _came.set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _came.is_set():
        _came.set()
        raise KeyboardInterrupt
