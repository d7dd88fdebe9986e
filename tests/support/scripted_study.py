"""A minimal study as a command, for faults that can happen to any study.

    python scripted_study.py RESULTS HOW UNITS SECONDS

HOW is one or more words, joined by +. With `lasting`, units have ids, so that none is done twice; with `actor`, one
actor does them; with `timing`, the study has the results for itself. Files in RESULTS are faults of unit N: `die-N`
ends the process that does it, and `refuse-N` raises `UsageError`.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.console.command import command
from cluster.studies.run import StudyResult, run_study
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.output.progress import Display, NullDisplay
from eexit.output.result_table import ResultTable
from eexit.plan.hashes import content_hash
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.layout import MANIFEST, Manifest, encode_manifest
from eexit.results.store.folder import open_store
from eexit.results.study_table import StudyTable
from eexit.results.tables import int32, moment, string
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit

MODEL = {"name": "m", "n_layers": 30, "dtype": "float32"}
COLUMNS = {
    "mark_id": string("id", "of a call or a unit", nullable=False),
    "started": moment("time", "when that began", nullable=False),
    "unit": int32("number", "from 0", nullable=False),
    "text": string("text", "so that a file is of some size", nullable=False),
}
TABLE = StudyTable("marks", "mark_id", COLUMNS)


def land_nothing(out: Path) -> Path:
    config = {"model": "m", "prompts": [], "seeds": [0], "temperature": 0.0}
    manifest = Manifest(config=config, model=MODEL, exitable_layers=[5], n_runs=0)
    open_store(out).publish(MANIFEST, encode_manifest(manifest))
    return out


class ScriptedStudy(Study):
    """A study with two parts per unit, and a row per part."""

    table, doing, oom_hint = TABLE, "marking", "mark less"

    def __init__(self, results: str, how: str, n_units: int, seconds: float) -> None:
        self._results, self._n_units, self._seconds = Path(results), n_units, seconds
        self.opening, self.needs_model = f"marking {n_units} units", "actor" in how
        self._is_lasting, self.times = "lasting" in how, "timing" in how
        self.config = SweepConfig(model="m", prompts=(Prompt(id="0", prompt="?"),))

    def load(self, device: str) -> Sequence[str]:
        return ["one thing to know"]

    def units(self) -> Sequence[StudyUnit]:
        numbers = range(self._n_units)
        ids = [content_hash(number) if self._is_lasting else "" for number in numbers]
        parts = [[StudyPart(f"unit {number}, part {part}", number) for part in range(2)] for number in numbers]
        return [*map(StudyUnit, parts, ids)]

    def run_part(self, part: StudyPart) -> PartResult:
        if (self._results / f"die-{part.what}").exists():
            os._exit(1)
        if (self._results / f"refuse-{part.what}").exists():
            raise UsageError(f"unit {part.what} can't be done: leave it out")
        time.sleep(self._seconds)
        return PartResult([{"unit": part.what, "text": os.urandom(512).hex()}], 1)

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        return [f"{len(rows)} rows of {len({row['unit'] for row in rows})} units"]


def marked(
    out: Path, how: str, n_units: int, seconds: float = 0.0, display: Display | None = None, n_layers: int = 30
) -> StudyResult[ScriptedStudy]:
    """Run the study with a model that now has `n_layers` layers."""
    facts: Any = {**MODEL, "n_layers": n_layers}, (5,), None
    study = ScriptedStudy(str(out), how, n_units, seconds)
    return run_study(str(out), lambda _: study, display=display or NullDisplay(), inspect=lambda *_: facts)


@command(f"the units that were finished stay in {TABLE.name}")
def main(arguments: Sequence[str]) -> int:
    out, how, n_units, seconds = arguments
    marked(Path(out), how, int(n_units), float(seconds), open_display()).show(out, 100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
