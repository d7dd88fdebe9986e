"""Judges' scores as columns of the runs, so that they are averaged and paired like every other measure.

A judge is a judging model under one rubric; scores of two judges are never mixed. Each judge has the columns
`coherence`, `completeness`, `clarity` and `no_repetition`, 1 to 5 each, and `score`, their mean. Their names end in the
judge's number. They are empty for a run without a usable judgement.
"""

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from eexit.plan.runs import OK
from eexit.quality.rubric import ASPECTS, SCALE

SCORE: Final = "score"
COLUMNS: Final = (*ASPECTS, SCORE)
WORST, BEST = SCALE[0], SCALE[-1]


@dataclass(frozen=True)
class Judge:
    """Judging model under one rubric, and the number of runs that it failed to judge."""

    number: int
    name: str  # followed by the rubric if the model judged under several
    errors: dict[str, int]  # configuration → runs without a usable answer

    def column(self, name: str) -> str:
        """Return the name of this judge's column for one of `COLUMNS`."""
        return f"{name}_{self.number}"

    @property
    def columns(self) -> list[str]:
        return [self.column(name) for name in COLUMNS]


def judges_of(judgements: pd.DataFrame) -> tuple[Judge, ...]:
    """Return the judges, in the order of their first judgements."""
    of_judges = _by_judge(judgements)
    names = [name for name, _ in of_judges]
    found = []
    for number, ((name, rubric), judged) in enumerate(of_judges.items()):
        failed = judged[judged["status"] != OK]
        errors = {str(key): int(n) for key, n in failed["configuration"].value_counts().items()}
        shown = f"{name}, rubric {rubric}" if names.count(name) > 1 else str(name)
        found.append(Judge(number, shown, errors))
    return tuple(found)


def with_judgements(generations: pd.DataFrame, judgements: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the columns of each judge."""
    for judge, judged in zip(judges_of(judgements), _by_judge(judgements).values(), strict=True):
        usable = judged[judged["status"] == OK].set_index("run_id")
        numbers = usable[list(ASPECTS)].astype(float)
        numbers[SCORE] = numbers[list(ASPECTS)].mean(axis=1, skipna=False)
        of_runs = numbers.reindex(generations["run_id"]).set_axis(generations.index)
        generations = generations.assign(**{judge.column(name): of_runs[name] for name in COLUMNS})
    return generations


def said_of_runs(judgements: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """Return run_id → one list per judgement: the judge's number, the scores of `ASPECTS`, and the error."""
    numbers = {pair: number for number, pair in enumerate(_by_judge(judgements))}
    found: dict[str, list[list[Any]]] = {}
    names = ["run_id", "judge", "rubric", *ASPECTS, "error"]
    for run_id, judge, rubric, *scores, error in judgements[names].itertuples(index=False):
        found.setdefault(run_id, []).append([numbers[judge, rubric], scores, error])
    return found


def _by_judge(judgements: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return (judging model, rubric) → judgements, in the order of their first judgements."""
    groups = judgements.groupby(["judge", "rubric"], sort=False)
    return {(str(name), str(rubric)): judged for (name, rubric), judged in groups}
