"""Judging a sweep's texts: `judge_sweep`, which `jobs/judge.py` uses. Needs no Ray.

Questions are asked in a thread of its own, where answers become rows, which land every few seconds. Signals interrupt
the main thread only, which shows the progress: so no answer that has come is lost, whenever an interruption comes.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from eexit.errors import SweepStopped
from eexit.output.progress import Display, Progress
from eexit.output.text import counted
from eexit.plan.runs import ERROR, OK
from eexit.quality.rubric import RUBRIC, Comparison, Question, TextScores, preference
from eexit.results.store.lease import Lease
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.judging.endpoint import AskingError, Endpoint, JudgeModel, KeptReplies, Reply
from eexit.studies.judging.plan import Judged, JudgingPlan

ROWS_PER_FILE: Final = 1000
SECONDS_BETWEEN_FILES = 15.0
SECONDS_BETWEEN_LOOKS: Final = 0.5  # at the progress, where no answer comes
FAILURES_IN_A_ROW: Final = 5  # of one kind, that are not a text's
FAILURES_WITHOUT_ANSWER: Final = 10  # of texts, if none ever worked

Answer = Reply | AskingError


def judge_sweep(
    plan: JudgingPlan, judge: JudgeModel, concurrency: int, display: Display, lease: Lease, replies: KeptReplies
) -> "Judging":
    """Ask all that `plan` wants to know, and land it in the sweep's `judgements/`; says how many rows landed.

    `lease` is that of judging, under which the plan was made: so no two calls pay for the same answers. `replies` keeps
    what is no verdict. Raises `SweepStopped` when the lease is lost, or going on would only fail; whatever is raised,
    all answers that have come have landed.
    """
    judging, loop = Judging(plan), asyncio.new_event_loop()
    asking = loop.create_task(_ask_all(judging, judge, concurrency, replies))

    def ask_all() -> None:
        """In the thread of the event loop: return when all are answered, or given up. Raises `SweepStopped`."""
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(asking)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            loop.close()
            judging.land_unfinished()

    with display, ThreadPoolExecutor(1, "judge") as pool:
        all_asked = pool.submit(ask_all)
        try:
            while not wait([all_asked], SECONDS_BETWEEN_LOOKS).done:
                lease.check()
                display.show(judging.progress)
        finally:
            with suppress(RuntimeError):  # the loop is closed, since all is answered
                loop.call_soon_threadsafe(asking.cancel)
            all_asked.result()
        display.show(judging.progress, last=True)
    return judging


async def _ask_all(judging: "Judging", judge: JudgeModel, concurrency: int, replies: KeptReplies) -> None:
    """Ask all questions, many at a time."""
    left, breaker = iter(judging.questions), _JudgeBreaker()

    async def work(endpoint: Endpoint) -> None:
        while question := next(left, None):  # shared by all workers
            answer: Answer
            try:
                answer = await endpoint.ask(question)
            except AskingError as error:
                answer = error
            judging.settle(question, answer)
            breaker.look_at(answer)

    async with Endpoint(judge, replies) as endpoint, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(judging.questions))):
            group.create_task(work(endpoint))


@dataclass
class _JudgeBreaker:
    """Stops when the endpoint only fails: after failures of the environment in a row, or if no text was ever judged."""

    kind: str = ""  # of the last failures in a row
    n_in_a_row: int = 0
    has_worked: bool = False
    n_failed_texts: int = 0

    def look_at(self, answer: Answer) -> None:
        """Raises `SweepStopped`."""
        if isinstance(answer, Reply):
            self.has_worked = True
            self.kind, self.n_in_a_row = "", 0
        elif answer.is_final:
            raise SweepStopped(str(answer))
        elif not answer.of_text:
            self.n_in_a_row = self.n_in_a_row + 1 if answer.kind == self.kind else 1
            self.kind = answer.kind
            if self.n_in_a_row >= FAILURES_IN_A_ROW:
                raise SweepStopped(f"{self.n_in_a_row} failures in a row, the last: {answer}")
        else:
            self.n_failed_texts += 1
            if not self.has_worked and self.n_failed_texts >= FAILURES_WITHOUT_ANSWER:
                raise SweepStopped(f"none of {counted(self.n_failed_texts, 'text')} was judged, the last: {answer}")


class Judging:
    """Makes rows of answers, and lands them. `progress` may be read from other threads.

    `judged` rows were made, and `errors` of runs without a judgement, the last of which has this `reason`.
    """

    def __init__(self, plan: JudgingPlan) -> None:
        self.questions = plan.questions
        self.judged = self.errors = self._n_failed = self._tokens = 0
        self.reason = ""
        self._plan = plan
        self._started = datetime.now(UTC)
        self._answers: dict[Question, Answer] = {}
        self._waiting: dict[Question, list[Judged]] = {}
        self._open = {run: len(asked) for run, asked in plan.asked.items()}  # questions that are not answered
        self._rows: list[dict[str, Any]] = []
        self._last_landing = time.monotonic()
        for run, asked in plan.asked.items():
            for question in asked:
                self._waiting.setdefault(question, []).append(run)
            if not asked:
                self._finish(run)

    @property
    def progress(self) -> Progress:
        done, planned = len(self._answers), len(self.questions)
        doing = f"{done:,}/{planned:,} questions · {counted(self._n_failed, 'error')}"
        return Progress(doing, self._tokens, done / planned if planned else 1.0, done > 0)

    def settle(self, question: Question, answer: Answer) -> None:
        """Make the rows of an answer, and land them with those before it if that is due."""
        self._answers[question] = answer
        for run in self._waiting.pop(question):
            self._open[run] -= 1
            if not self._open[run]:
                self._finish(run)
        self._n_failed += isinstance(answer, AskingError)
        self._tokens += answer.tokens if isinstance(answer, Reply) else 0
        if len(self._rows) >= ROWS_PER_FILE or time.monotonic() - self._last_landing >= SECONDS_BETWEEN_FILES:
            self._land()

    def land_unfinished(self) -> None:
        """Land all rows, and what is known of runs some of whose questions are open."""
        for run, n_open in self._open.items():
            if n_open and any(question in self._answers for question in self._plan.asked[run]):
                self._finish(run)
        self._land()

    def _land(self) -> None:
        if self._rows:
            JUDGEMENTS.publish(self._plan.store, uuid4().hex, self._rows)
            self._rows = []
        self._last_landing = time.monotonic()

    def _finish(self, run: Judged) -> None:
        """Make the rows of a run: one with what is known, and one with why the rest is not."""
        asked = self._plan.asked[run]
        columns = self._plan.columns(run)
        answers = [(question, self._answers[question]) for question in asked if question in self._answers]
        verdicts = [(asked[question], answer.verdict) for question, answer in answers if isinstance(answer, Reply)]
        for _, verdict in verdicts:
            if isinstance(verdict, TextScores):
                columns |= verdict.model_dump()
        compared = [(is_first, verdict) for is_first, verdict in verdicts if isinstance(verdict, Comparison)]
        if compared and len(compared) == self._plan.orders:
            columns |= {"preferred": preference(compared), "pair_hash": run.pair_hash, "orders": len(compared)}
        if columns and not self._plan.holds(run, columns):
            self._add(run, status=OK, **columns)
            self.judged += 1
        if reasons := list(dict.fromkeys(str(answer) for _, answer in answers if isinstance(answer, AskingError))):
            self.reason = "; ".join(reasons)
            self.errors += 1
            self._add(run, status=ERROR, error=self.reason)

    def _add(self, run: Judged, **columns: Any) -> None:
        about = {"judge": self._plan.judge, "rubric": RUBRIC, "started": self._started, "text_hash": run.text_hash}
        self._rows.append({**run.identity, **about, **columns})
