"""Choosing a setting of a finished sweep whose risk is bounded, from what the sweep recorded."""

from collections.abc import Sequence
from typing import Any

from eexit.messages.result_table import ResultTable
from eexit.plan.runs import OK
from eexit.results.store.finished_sweep import FinishedSweep
from eexit.results.store.folder import Store
from eexit.results.study_tables import CHOICES
from eexit.studies.choosing.choice import Choice, choice_columns, choose_setting, question_columns
from eexit.studies.choosing.evidence import Evidence, sequences_of
from eexit.studies.choosing.question import ChoiceQuestion
from eexit.studies.choosing.words import choice_sentences, choice_table
from eexit.studies.study import Done, Part, Row, Study, Unit

ASKED = "asked"
QUESTION = ("risk", "at_most", "confidence", "cost_by", "test", "order", "asked")  # columns that make it another one


class ChoosingStudy(Study):
    """Two units: what is asked, which lands before a loss for choosing is looked at, and what was tested and chosen."""

    table, doing = CHOICES, "choosing"
    choice: Choice

    def __init__(self, sweep: FinishedSweep, question: ChoiceQuestion) -> None:
        """Raises `UsageError` for what nothing can be chosen from."""
        self._evidence = Evidence(sweep, question)
        self._sequences = sequences_of(self._evidence)
        self._number = self._count_questions()

    def _count_questions(self) -> int:
        """Which question on these prompts it is, from 1; the same one again has the number that it had."""
        asked = [_what(row) for row in CHOICES.rows(self._evidence.sweep.store)]
        different = list(dict.fromkeys(asked))
        this = _what(question_columns(self._evidence, self._sequences, 1))
        return (different.index(this) if this in different else len(different)) + 1

    def units(self) -> Sequence[Unit]:
        return [Unit([Part("asking", self._ask)]), Unit([Part(self.doing, self._choose)])]

    def do(self, part: Part) -> Done:
        return Done([part.what()])

    def _ask(self) -> Row:
        return {**question_columns(self._evidence, self._sequences, self._number), "status": ASKED, "tested": []}

    def _choose(self) -> Row:
        self.choice = choose_setting(self._evidence, self._sequences, self._number)
        return {**choice_columns(self.choice), "status": OK}

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        return [choice_table(self.choice), *choice_sentences(self.choice)]


def choices_made(store: Store) -> Sequence[Row]:
    """The rows of the choices that came to an end, the latest last."""
    return [row for row in CHOICES.rows(store) if row["status"] == OK]


def _what(row: Row) -> tuple[Any, ...]:
    return tuple(tuple(row[name] or ()) if name == "asked" else row[name] for name in QUESTION)
