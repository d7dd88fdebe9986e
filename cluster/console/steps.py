"""One progress over several steps, each of which shows its own: which step of how many, and the time left of all."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from eexit.output.progress import Display, Progress


class Steps:
    """Shows the progress of all, given the share that each step has of the whole; `finished` ones were done before.

    The display is entered around all steps. What works within a step enters and leaves this one, which does nothing.
    """

    def __init__(self, display: Display, shares: Mapping[str, float], finished: Collection[str] = ()) -> None:
        self.display = display
        self._numbers = {step: number for number, step in enumerate(shares, 1)}
        self._all, self._shares = shares, {step: share for step, share in shares.items() if step not in finished}
        self._step, self._within, self._part, self._done = "", 0.0, 0.0, 0.0

    def begin(self, step: str) -> None:
        """From now on, it is this step, which may be one that was done before."""
        self._step, self._within, self._part, self._done = step, 0.0, 0.0, 0.0
        self._shares.setdefault(step, self._all[step])

    def work(self, part: float) -> None:
        """Say that work within the step begins which makes up this part of it."""
        self._within, self._part, self._done = min(1.0, self._within + self._part), part, 0.0

    @property
    def share_of_step(self) -> float:
        """How much of the current step is done."""
        return min(1.0, self._within + self._part * self._done)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, progress: Progress, last: bool = False) -> None:
        doing = f"{self._numbers[self._step]}/{len(self._numbers)} {self._step}: {progress.doing}"
        earlier = sum(share for step, share in self._shares.items() if self._numbers[step] < self._numbers[self._step])
        self._done = progress.share
        of_step = self._shares.get(self._step, 0.0) * self.share_of_step
        share = (earlier + of_step) / max(sum(self._shares.values()), 1e-9)
        self.display.show(replace(progress, doing=doing, share=share, has_begun=share > 0))

    def say(self, line: str) -> None:
        self.display.say(line)
