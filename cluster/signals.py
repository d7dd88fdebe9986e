"""Handling of Ctrl-C, SIGTERM (`ray job stop`, batch systems) and SIGHUP (a closed terminal): all end a sweep alike.

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
    """Raise `KeyboardInterrupt` in the context at the first of these signals, and ignore further signals.

    So no signal interrupts the cleaning up. After the context, the process ignores these signals until it ends, since
    the default handlers would kill it while it cleans up.
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
    """Reinstall the handlers of `listening`, if it is active, after a library may have replaced them.

    Libraries may replace handlers outside Python. Signals that were ignored when the process started, as under
    `nohup`, stay ignored.
    """
    if _listening:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)


def check() -> None:
    """Raise `KeyboardInterrupt` if a signal has come.

    The signal's own exception may be lost: Python drops exceptions that are raised in a finaliser.
    """
    if _listening and _came.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _came.is_set():
        _came.set()
        raise KeyboardInterrupt
