"""What an assessment was asked, what was planned of it, and how long its steps took: `assessment.json` in its folder.

format     1
asked      model, margin, confidence, minutes, batch sizes and whatever else the results depend on; a digest of the
           prompts
plans      the sizes of what was planned, by step
seconds    that each step took, over all calls that it took part in
finished   the steps that are done
remarks    what was left out, and what else is to be known
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from eexit.messages.errors import UsageError
from eexit.messages.locations import shown
from eexit.plan.artefacts import CARD
from eexit.results.layout import ASSESSMENT, MANIFEST
from eexit.results.store.manifest import first_difference
from eexit.whole_files import write_whole

RECORD: Final = ASSESSMENT
FORMAT: Final = 1


@dataclass
class Record:
    """It is written whenever something is added, so that the same command goes on from there."""

    path: Path
    asked: Mapping[str, Any]
    plans: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, out: str | Path, asked: Mapping[str, Any]) -> "Record":
        """That of this folder, or a new one, also in place of one of which no sweep has landed, as after bad input.

        Raises `UsageError` if it is of another assessment, or damaged, and for what is no folder of an assessment.
        """
        path, asked = _folder(out) / RECORD, json.loads(json.dumps(asked))
        if not path.is_file():
            return cls(path, asked)
        try:
            held = json.loads(path.read_text("utf-8"))
            found = cls(path, **{name: held[name] for name in ("asked", "plans", "seconds", "finished", "remarks")})
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged: remove it, and what is finished of the steps is kept") from error
        if difference := first_difference(found.asked, asked):
            if not (found.plans or found.finished):
                return cls(path, asked)
            raise UsageError(f"--out {out} holds another assessment ({difference}): choose another --out")
        return found

    def write(self) -> None:
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False) + "\n")

    def spent(self, step: str, seconds: float, is_done: bool) -> None:
        """Add to a step's time."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        if is_done and step not in self.finished:
            self.finished.append(step)
        self.write()

    def remark(self, *lines: str) -> None:
        self.remarks += [line for line in lines if line not in self.remarks]
        self.write()


def _folder(out: str | Path) -> Path:
    if "://" in str(out):
        raise UsageError(f"--out {shown(str(out))} is a URI: give a folder, which models are loaded from")
    folder = Path(out).expanduser().resolve()
    if folder.is_file():
        raise UsageError(f"--out {out} is a file: give a folder")
    for name in (MANIFEST, CARD):
        if (folder / name).exists():
            raise UsageError(f"--out {out} holds other results ({name}): choose another --out")
    return folder
