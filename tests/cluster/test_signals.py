"""What a signal does to a command, and to the next command in the same process."""

import os
import signal

import pytest

from cluster import signals

pytestmark = pytest.mark.usefixtures("interruptible")


@signals.listening()
def interrupted_command() -> str:
    """Sends itself two signals: the first interrupts its work, the second doesn't interrupt its clearing away."""
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        return "interrupted"
    return "not heard"


def test_only_the_first_signal_interrupts_and_no_later_command_is_interrupted() -> None:
    assert interrupted_command() == "interrupted"
    with signals.listening():
        signals.check()
    signals.check()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert interrupted_command() == "not heard", "what the shell ignores stays ignored"
