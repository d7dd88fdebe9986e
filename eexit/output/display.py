"""Progress displays of sweeps, studies and timings, and the width of printed tables.

A terminal gets a live bar, a notebook tqdm's. Other streams get plain lines.
"""

import sys
import time
from collections import deque
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from eexit.output.progress import Display, NullDisplay, Progress
from eexit.output.text import printable

RATE_WINDOW_SECONDS = 30.0  # window of the average token rate
SECONDS_BETWEEN_LINES = 5.0  # at first; later, a twentieth of the elapsed time
MOST_SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_UPDATES = 0.25  # in a notebook
BAR_COLUMNS = 16  # so that the text fits in 80 columns


class Throughput:
    """Token rate and remaining time, measured from construction."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque([(self._started, 0)])

    def describe(self, progress: Progress) -> str:
        now = time.monotonic()
        if progress.tokens < self._seen[-1][1]:  # the count restarts with a new step, or drops when an actor dies
            self._seen.clear()
        self._seen.append((now, progress.tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_SECONDS:
            self._seen.popleft()
        since, tokens = self._seen[0]
        rate = f"{(progress.tokens - tokens) / (now - since):,.0f} tokens/s" if now > since else ""
        can_tell = progress.share > 0 and progress.has_begun
        left = _time_left((now - self._started) * (1 / progress.share - 1)) if can_tell else "starting"
        left = "" if progress.open_ended else left
        told = (progress.doing, rate if progress.with_rate else "", left, progress.ending)
        return " · ".join(filter(None, told))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started


class PacedDisplay:
    """Base of displays: its context restarts the measurement of rates."""

    def __init__(self) -> None:
        self._pace = Throughput()
        self._next = 0.0  # when to show progress again

    def __enter__(self) -> Self:
        self._pace = Throughput()
        return self

    def __exit__(self, *error: object) -> None: ...


class PlainDisplay(PacedDisplay):
    """Display that prints plain lines for logs, at growing intervals."""

    def __init__(self, stream: TextIO, every: float = SECONDS_BETWEEN_LINES) -> None:
        super().__init__()
        self._stream = stream
        self._every = every

    def show(self, progress: Progress, last: bool = False) -> None:
        text = self._pace.describe(progress)
        if last or time.monotonic() >= self._next:
            wait = min(max(self._every, self._pace.seconds / 20), MOST_SECONDS_BETWEEN_LINES)
            self._next = time.monotonic() + wait
            self.say(f"{progress.tokens:,} tokens · {text}")

    def say(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


class BarDisplay(PacedDisplay):
    """Display with a live bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._console = Console(file=stream)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, progress: Progress, last: bool = False) -> None:
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=progress.share, width=BAR_COLUMNS), self._pace.describe(progress))
        self._live.update(line)
        if last:
            self._console.print(line)

    def say(self, line: str) -> None:
        self._console.print(printable(line), highlight=False, markup=False)


class NotebookBar(PacedDisplay):
    """Display in a notebook: tqdm's bar, and messages as lines. Without ipywidgets, tqdm's bar is text."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, progress: Progress, last: bool = False) -> None:
        text = self._pace.describe(progress)
        if self._bar is None:
            from tqdm.auto import tqdm  # here, since it warns where ipywidgets are missing

            self._bar = tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| {desc}")
        if last or time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_UPDATES
            self._bar.n = progress.share
            self._bar.set_description_str(text)

    def say(self, line: str) -> None:
        print(printable(line), flush=True)


def open_display(quiet: bool = False) -> Display:
    """Return the display for this process: silent, notebook output, live bar or plain lines on standard error."""
    if quiet:
        return NullDisplay()
    if is_notebook():
        return NotebookBar()
    return BarDisplay(sys.stderr) if sys.stderr.isatty() else PlainDisplay(sys.stderr)


def is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def console_of(columns: int) -> Console:
    """Return a console for tables; one that is no terminal has at least `columns` columns, so that long keys fit."""
    console = Console()
    console.width = console.width if console.is_terminal else max(console.width, columns)
    return console


def _time_left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min left" if hours else f"{minutes}:{rest:02d} left"
