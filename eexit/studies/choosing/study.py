"""Choosing a setting of a finished sweep whose risk is bounded, from what the sweep recorded."""

from collections.abc import Sequence

from eexit.messages.locations import shown
from eexit.messages.result_table import ResultTable
from eexit.results.store.finished_sweep import FinishedSweep
from eexit.results.study_tables import CHOICES
from eexit.studies.choosing.choice import Choice, choice_columns, choose_setting, refuse_few
from eexit.studies.choosing.evidence import ChoiceQuestion, read_evidence
from eexit.studies.choosing.words import choice_sentences, choice_table
from eexit.studies.study import Done, Part, Row, Study, Unit


class ChoosingStudy(Study):
    """One unit of one part: what was tested and chosen."""

    table, doing = CHOICES, "choosing"
    choice: Choice

    def __init__(self, sweep: FinishedSweep, results: str, question: ChoiceQuestion) -> None:
        """Raises `UsageError` for what nothing can be chosen from."""
        self._question, self._evidence = question, read_evidence(sweep, results, question)
        refuse_few(self._evidence, question, shown(results))

    def units(self) -> Sequence[Unit]:
        return [Unit([Part(self.doing)])]

    def do(self, part: Part) -> Done:
        self.choice = choose_setting(self._evidence, self._question)
        return Done([choice_columns(self.choice)])

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        return [choice_table(self.choice), *choice_sentences(self.choice)]
