"""What an assessment was asked, and how long its steps took: `assessment.json` in its folder.

format     2
asked      the model, the bound and whatever else the results depend on; a digest of the prompts
seconds    that each step took, over all calls that it took part in, from which the time left is told
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.job import location_for_all
from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.whole_files import write_whole
from eexit.results.files import Location
from eexit.results.layout import ASSESSMENT
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import first_difference
from eexit.results.whereabouts import refuse_inside
from eexit.studies.assessment.verdict import FILE, read_verdict

FORMAT: Final = 2


@dataclass
class AssessmentRecord:
    """The content of `assessment.json`. What is added is written at once."""

    path: Path
    asked: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any], has_begun: bool) -> "AssessmentRecord":
        """That of this folder, or a new one where no step `has_begun`, as after bad input.

        Raises `UsageError` if it is of another assessment, or damaged.
        """
        path, asked = folder / ASSESSMENT, json.loads(json.dumps(asked))
        if not path.is_file():
            return cls(path, asked)
        try:
            held = json.loads(path.read_bytes(), parse_constant=_refuse)
            version, known, seconds = held["format"], dict(held["asked"]), dict(held["seconds"])
            seconds = {str(name): float(taken) for name, taken in seconds.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is damaged: remove it, and what is finished of the steps is kept") from error
        if version != FORMAT:
            raise UsageError(f"{path} is of another version (format {version}): choose another --out")
        if difference := first_difference(known, asked):
            if not has_begun:
                return cls(path, asked)
            raise UsageError(f"--out {folder} holds another assessment ({difference}): choose another --out")
        return cls(path, asked, seconds)

    def write(self) -> None:
        content = {"format": FORMAT, "asked": self.asked, "seconds": self.seconds}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def took(self, step: str, seconds: float) -> None:
        """Add to a step's time."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        self.write()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def folder_of(out: str) -> Path:
    """The folder of an assessment, absolute. Raises `UsageError` for what can't be one."""
    if not out:
        raise UsageError("--out is empty: give a folder")
    if "://" in out:
        raise UsageError(f"--out {shown(out)} is a URI: give a folder, which models are loaded from")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    refuse_inside(open_store(folder), f"--out {out}")
    return folder


def refuse_foreign_verdict(*folders: Path) -> None:
    """Raises `UsageError` where a `verdict.json` is not of an assessment, which ours would replace."""
    for folder in folders:
        if (folder / FILE).exists():
            store = open_store(folder)
            found, _ = read_verdict(Location(store.filesystem, store.root))
            if found is None:
                raise UsageError(
                    f"{folder / FILE} is not of an assessment of this version: move it, or choose another --out"
                )
