"""Study that selects a finished sweep's setting with a bounded risk, from the sweep's records."""

from collections.abc import Sequence

from eexit.output.result_table import ResultTable
from eexit.plan.runs import OK
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.store.folder import Store
from eexit.results.study_tables import CHOICES
from eexit.studies.selection.alpha_spending import ask_of
from eexit.studies.selection.certificate import certificate, counted_table, held_out_table, tested_table
from eexit.studies.selection.select_setting import (
    Selection,
    ask_columns,
    choice_columns,
    choose_setting,
    question_columns,
)
from eexit.studies.selection.selection_args import SelectionArgs, refuse_few
from eexit.studies.selection.selection_data import SelectionData, refuse_empty, sequences_of
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit

ASKED = "asked"


class SelectionStudy(Study):
    """Study of two units: the arguments, then the tests and the selection.

    The first is committed before a loss of a calibration prompt is read.
    """

    table, doing = CHOICES, "choosing"
    choice: Selection

    def __init__(self, sweep: FinishedSweep, question: SelectionArgs) -> None:
        """Raise `UsageError` if nothing can be selected."""
        self._measured = SelectionData(sweep, question)
        refuse_empty(self._measured)
        self._sequences = sequences_of(self._measured)
        asked = question_columns(self._measured, self._sequences)
        self._ask = ask_of(asked, question.planned_uses, sweep.store)
        refuse_few(len(self._measured.units_of("choosing")), len(self._sequences), question, sweep.name, self._ask)
        self._columns = {**asked, **ask_columns(self._ask, len(self._sequences))}
        self._results = sweep.digest

    def units(self) -> Sequence[StudyUnit]:
        return [StudyUnit([StudyPart("asking", ASKED)]), StudyUnit([StudyPart(self.doing, OK)])]

    def run_part(self, part: StudyPart) -> PartResult:
        if part.what == ASKED:
            return PartResult([{**self._columns, "status": ASKED, "tested": []}])
        self.choice = choose_setting(self._measured, self._sequences, self._ask)
        return PartResult([{**choice_columns(self.choice), "results": self._results, "status": OK}])

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        left_out = [f"Left out: {line}." for line in self._measured.left_out]
        tables = [build(self.choice) for build in (tested_table, counted_table, held_out_table)]
        return [*tables, *left_out, *certificate(self.choice)]


def choices_made(store: Store) -> Sequence[Row]:
    """Return the rows of finished selections, the latest last."""
    return [row for row in CHOICES.rows(store) if row["status"] == OK]


def latest_choice(store: Store, risk: str, max_risk: float, confidence: float) -> Row | None:
    """Return the row of the latest finished selection at a bound, if any."""
    made = [row for row in choices_made(store) if (row["risk"], row["max_risk"]) == (risk, max_risk)]
    return next((row for row in reversed(made) if row["confidence"] == confidence), None)
