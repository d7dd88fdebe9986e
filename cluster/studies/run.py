"""Execution of a study of a finished sweep: `run_study`, for the scripts of `jobs/`.

A study without a model runs in this process, without Ray. Any other has an actor with a node's CPUs or a GPU to itself.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

from rich.text import Text

from cluster import signals
from cluster.sweep_job import location_for_all
from eexit.output.display import console_of, open_display
from eexit.output.locations import read_snippet, redact
from eexit.output.progress import Display, Progress
from eexit.plan.model_inspection import ModelFacts, inspect_model
from eexit.plan.sweep_config import SweepConfig
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import ASSESSING, TIMING, hold, refuse_if_held
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit

S = TypeVar("S", bound=Study)


@dataclass(frozen=True)
class StudyResult(Generic[S]):
    """Finished study with its rows."""

    study: S
    rows: Sequence[Row]

    def show(self, results: str, columns: int) -> None:
        """Print the closing tables, `columns` wide where the output is no terminal, and a hint on reading the rows."""
        console = console_of(columns)
        for each in self.study.summary(self.rows):
            console.print(Text(each) if isinstance(each, str) else each)
        print(read_snippet(results, self.study.table.name))


def run_study(
    results: str,
    plan: Callable[[FinishedSweep], S],
    device: str = "auto",
    display: Display | None = None,
    inspect: Callable[[SweepConfig, int], ModelFacts] = inspect_model,
    columns: Sequence[str] = ("prompt_id", "status"),
    trusts_code: bool = False,
) -> StudyResult[S]:
    """Do the study that `plan` makes of the finished sweep in `results`, and publish its rows there.

    `columns` are those of the runs that `plan` needs, and `inspect` is as in `run_job`. With `trusts_code`, the model's
    own Python code may run. Raise `UsageError` for bad input or for timing a folder in use, and `SweepStopped` or
    `OSError` if all further work would fail. Rows that were published before stay.
    """
    display = display or open_display()
    found = read_finished(location_for_all(results, "the folder"), columns, trusts_code=trusts_code)
    sweep = replace(found, name=redact(results))
    sweep.store.probe("the folder")
    study = plan(sweep)
    if study.times and sweep.store.is_local:  # it locks the results
        refuse_if_held(open_store(Path(sweep.store.root).parent), ASSESSING)  # by another process
    with hold(sweep.store, display.say, TIMING) if study.times else nullcontext():
        return _done(study, sweep, device, display, inspect)


def _done(
    study: S, sweep: FinishedSweep, device: str, display: Display, inspect: Callable[[SweepConfig, int], ModelFacts]
) -> StudyResult[S]:
    call, units = StudyRun(study, sweep.store), study.units()
    left = call.pending(units, display)
    if not left:
        display.say(f"nothing is left to do: {study.table.name} has all of it")
        return StudyResult(study, call.committed_rows(units))
    if not study.needs_model:
        if study.opening:
            display.say(study.opening)
        _in_order(call, left, study.run_part, display)
        return StudyResult(study, call.committed_rows(units))
    refuse_changed_model(sweep, inspect(study.config, 1)[0])
    from cluster.studies.actors import exclusive_actor  # here, since Ray takes a second to import

    with exclusive_actor(study, device, display) as actor:
        can_be_done = [unit for unit in actor.call("units") if not call.is_committed(unit)]
        _in_order(call, can_be_done, partial(actor.call, "run_part"), display)
    return StudyResult(study, call.committed_rows(units))


@dataclass
class StudyRun:
    """One execution of a study: the rows that it adds to a sweep's table, and the file that holds them."""

    study: Study
    store: Store
    call_id: str = field(default_factory=lambda: uuid4().hex)
    rows: list[Row] = field(default_factory=list)

    def pending(self, units: Sequence[StudyUnit], display: Display) -> list[StudyUnit]:
        """Return the units that are not committed; damaged files are set aside, and their units are among them."""
        if any(unit.unit_id for unit in units):
            for name, aside in self.study.table.set_damaged_aside(self.store):
                display.say(f"{name} is damaged: it is now in {aside}, and what it held is {self.study.redo_note}")
        return [unit for unit in units if not self.is_committed(unit)]

    def is_committed(self, unit: StudyUnit) -> bool:
        return bool(unit.unit_id) and self.store.has(self.study.table.file(unit.unit_id))

    def committed_rows(self, units: Sequence[StudyUnit]) -> Sequence[Row]:
        """Return the rows of these units, in order; units with an id may have been published by other calls."""
        order = {unit.unit_id: rank for rank, unit in enumerate(units) if unit.unit_id}
        if not order:
            return self.rows
        id_column = self.study.table.id_column
        assert id_column, "a table of units with ids has a column for them"
        ours = [row for row in self.study.table.rows(self.store) if row[id_column] in order]
        return sorted(ours, key=lambda row: order[row[id_column]])  # stable: the rows of a unit keep their order

    def publish_unit(self, unit: StudyUnit, parts: Sequence[PartResult], began: datetime) -> None:
        """Publish the rows of a unit, together with earlier rows or in a separate file."""
        file_id = unit.unit_id or self.call_id
        rows = self.study.rows(unit, [done.result for done in parts])
        new = self.study.table.named(file_id, [{"started": began, **row} for row in rows])
        self.rows += new
        if new:
            self.study.table.publish(self.store, file_id, new if unit.unit_id else self.rows)


def _in_order(
    call: StudyRun, left: Sequence[StudyUnit], do: Callable[[StudyPart], PartResult], display: Display
) -> None:
    planned = sum(part.size for unit in left for part in unit.parts)
    size, tokens, began = 0.0, 0, datetime.now(UTC)
    with display:
        for unit in left:
            parts: list[PartResult] = []
            if unit.unit_id or not call.rows:  # excludes the warm-up
                began = datetime.now(UTC)
            for part in unit.parts:
                signals.check()
                display.show(Progress(part.text, tokens, size / planned, tokens > 0))
                parts.append(do(part))
                size, tokens = size + part.size, tokens + parts[-1].tokens
            call.publish_unit(unit, parts, began)
        display.show(Progress("done", tokens, size / planned, tokens > 0), last=True)
