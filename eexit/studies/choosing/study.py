"""Choosing a setting of a finished sweep whose risk is bounded, from what the sweep recorded."""

from collections.abc import Sequence

from eexit.output.result_table import ResultTable
from eexit.plan.runs import OK
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.store.folder import Store
from eexit.results.study_tables import CHOICES
from eexit.studies.choosing.asks import ask_of
from eexit.studies.choosing.certificate import certificate, counted_table, held_out_table, tested_table
from eexit.studies.choosing.choice import Choice, ask_columns, choice_columns, choose_setting, question_columns
from eexit.studies.choosing.losses_and_costs import LossesAndCosts, refuse_empty, sequences_of
from eexit.studies.choosing.question import ChoiceQuestion, refuse_few
from eexit.studies.study import Done, Part, Row, Study, Unit

ASKED = "asked"


class ChoosingStudy(Study):
    """Two units: what is asked, which lands before a loss for choosing is looked at, and what was tested and chosen."""

    table, doing = CHOICES, "choosing"
    choice: Choice

    def __init__(self, sweep: FinishedSweep, question: ChoiceQuestion) -> None:
        """Raises `UsageError` for what nothing can be chosen from."""
        self._measured = LossesAndCosts(sweep, question)
        refuse_empty(self._measured)
        self._sequences = sequences_of(self._measured)
        asked = question_columns(self._measured, self._sequences)
        self._ask = ask_of(asked, question.asks, sweep.store)
        refuse_few(len(self._measured.units_of("choosing")), len(self._sequences), question, sweep.name, self._ask)
        self._columns = {**asked, **ask_columns(self._ask, len(self._sequences))}
        self._results = sweep.digest

    def units(self) -> Sequence[Unit]:
        return [Unit([Part("asking", ASKED)]), Unit([Part(self.doing, OK)])]

    def do(self, part: Part) -> Done:
        if part.what == ASKED:
            return Done([{**self._columns, "status": ASKED, "tested": []}])
        self.choice = choose_setting(self._measured, self._sequences, self._ask)
        return Done([{**choice_columns(self.choice), "results": self._results, "status": OK}])

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        left_out = [f"Left out: {line}." for line in self._measured.left_out]
        tables = [build(self.choice) for build in (tested_table, counted_table, held_out_table)]
        return [*tables, *left_out, *certificate(self.choice)]


def choices_made(store: Store) -> Sequence[Row]:
    """The rows of the choices that came to an end, the latest last."""
    return [row for row in CHOICES.rows(store) if row["status"] == OK]
