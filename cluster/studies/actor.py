"""The actor that does what needs a model: one process that has loaded it.

It is a plain class, which `cluster.studies` turns into Ray actors. What it answers needs no torch, so that the driver
need not import it.
"""

import os
from collections.abc import Sequence
from typing import Any

from cluster.actor import device_here
from eexit.studies.study import Done, Part, Work


class StudyActor:
    """Holds a study, or a training. It does one thing at a time; another thread may answer `progress`."""

    def __init__(self, work: Any) -> None:
        os.environ["TQDM_DISABLE"] = "1"  # bars of progress would be lines of a log
        self._work = work

    def load(self, device: str, threads: int, memory_share: float = 1.0) -> Sequence[str]:
        """Load the work's model; returns what users should know of it. Raises `UsageError` if it can't be loaded."""
        import torch

        torch.set_num_threads(threads)
        work: Work = self._work
        return work.load(device_here(device), memory_share)

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the work returns."""
        return getattr(self._work, method)(*arguments)

    def do_all(self, parts: Sequence[Part]) -> list[Done]:
        """The parts of a unit."""
        return [self._work.do(part) for part in parts]

    def progress(self) -> tuple[float, int]:
        share_and_tokens: tuple[float, int] = self._work.progress()
        return share_and_tokens
