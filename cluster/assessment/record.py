"""What an assessment was asked, what was planned of it, and how long its steps took: `assessment.json` in its folder.

format     1
asked      model, margin, confidence, minutes, batch sizes and whatever else the results depend on; a digest of the
           prompts
plans      the sizes of what was planned (`Plans`)
seconds    that each step took, over all calls that it took part in
finished   the steps that came to an end; whether what they left is still there, they say themselves
cut        the steps whose time was over before, and what is left out for that
remarks    what was left out, and what else is to be known
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field

from cluster.assessment.learned import Rules, Way
from cluster.assessment.sizes import STEPS, RunSizes, SearchSizes
from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.whole_files import write_whole
from eexit.plan.artefacts import CARD
from eexit.plan.configuration import EVERY
from eexit.results.layout import ASSESSMENT, MANIFEST
from eexit.results.store.manifest import first_difference

RECORD: Final = ASSESSMENT
FORMAT: Final = 1


@dataclass
class Front:
    """What is tried on the pilot: rules in an exit set, read in a way; no rules: in replays, no token leaves early.

    `gated` are the rules that were replayed behind a gate. `settings` are the keys of those that are worth a test, from
    safe to bold, and `alone` is the one if there is time for one; None: they were not tried yet.
    """

    way: Way = field(default_factory=Way)
    exit_set: str = EVERY
    rules: Rules = field(default_factory=dict)
    gated: Rules = field(default_factory=dict)
    settings: Sequence[str] | None = None
    alone: str = ""


@dataclass
class Plans:
    """What was planned once, each after the step before it; None: not yet."""

    asks_before: int | None = None  # of the prompts for choosing, in results beside these
    start: float | None = None  # seconds that work takes before its first token
    timed: dict[int, int] = field(default_factory=dict)  # rounds of T(rows, layers), by rows; none: not timed yet
    search: SearchSizes | None = None
    risk: str | None = None  # what is bounded, where that is not what the prompts allow
    front: Front | None = None
    free: Front | None = None  # what would save most if deciding were free, and is not tried anyway
    tried_speed: float | None = None  # tokens per second of settings on the pilot
    run: RunSizes | None = None


class Record(BaseModel):
    """What an assessment did and planned. Whatever is added is written at once, so that the same command goes on."""

    path: Path = Field(exclude=True)
    asked: dict[str, Any]
    plans: Plans
    seconds: dict[str, float]
    finished: list[str]
    cut: dict[str, str] = {}
    remarks: list[str]

    @classmethod
    def open(cls, out: str | Path, asked: Mapping[str, Any]) -> "Record":
        """That of this folder, or a new one, also in place of one of which no sweep has landed, as after bad input.

        Other minutes go on with one that had too few. Raises `UsageError` if it is of another assessment, or damaged,
        and for what is no folder of an assessment.
        """
        path, asked = folder_of(out) / RECORD, json.loads(json.dumps(asked))
        new = cls(path=path, asked=asked, plans=Plans(), seconds={}, finished=[], remarks=[])
        if not path.is_file():
            return new
        try:
            found = cls.model_validate({**json.loads(path.read_bytes()), "path": path})
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged: remove it, and what is finished of the steps is kept") from error
        if found.had_too_little_time and "minutes" in asked:
            found.asked = {**found.asked, "minutes": asked["minutes"]}
        if difference := first_difference(found.asked, asked):
            if found.plans == Plans() and not found.finished:
                return new
            raise UsageError(f"--out {out} holds another assessment ({difference}): choose another --out")
        return found

    @property
    def had_too_little_time(self) -> bool:
        """Whether a step was cut off, or the minutes were found too few before more was planned."""
        return bool(self.cut) or self.plans.search is None

    @property
    def missing(self) -> list[str]:
        """The steps that were cut, or have not come to an end."""
        return [step for step in STEPS if step in self.cut or step not in self.finished]

    def write(self) -> None:
        content = {"format": FORMAT, **self.model_dump(mode="json")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def begins(self, step: str) -> float:
        """A step begins, perhaps again; returns the seconds that it took if it had come to an end before.

        What it left then is gone, and so its time does not count.
        """
        if line := self.cut.pop(step, None):
            self.remarks = [each for each in self.remarks if each != line]
        if step not in self.finished:
            return 0.0
        self.finished.remove(step)
        return self.seconds.pop(step, 0.0)

    def spent(self, step: str, seconds: float, is_done: bool) -> None:
        """Add to a step's time."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        if is_done and step not in self.finished:
            self.finished.append(step)
        self.write()

    def cuts(self, step: str, line: str) -> None:
        """The time of a step was over: say so beside what came of the others, until it has come to an end."""
        self.cut[step] = line
        self.remark(line)

    def remark(self, *lines: str) -> list[str]:
        """Add these; returns those that are new."""
        new = [line for line in lines if line not in self.remarks]
        self.remarks += new
        self.write()
        return new


def folder_of(out: str | Path) -> Path:
    """That of an assessment. Raises `UsageError` for what can't be one."""
    if "://" in str(out):
        raise UsageError(f"--out {shown(str(out))} is a URI: give a folder, which models are loaded from")
    folder = Path(out).expanduser().resolve()
    if folder.is_file():
        raise UsageError(f"--out {out} is a file: give a folder")
    for name in (MANIFEST, CARD):
        if (folder / name).exists():
            raise UsageError(f"--out {out} holds other results ({name}): choose another --out")
    return folder
