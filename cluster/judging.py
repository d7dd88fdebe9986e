"""Judging a sweep's texts: `judge_sweep`, which `jobs/judge.py` uses. Needs no Ray.

Questions are asked in a thread of its own, many at a time; here, answers become rows, which land every few seconds. So
a signal interrupts this side only, where every answer that has come is kept.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa

from cluster.breaker import Breaker, SweepStopped
from cluster.display import Display, counted
from cluster.judging_plan import Judged, JudgingPlan
from eexit.endpoint import AskingError, Endpoint, JudgeModel, Reply
from eexit.further_schema import JUDGEMENTS
from eexit.results import JUDGEMENTS_FOLDER, further_name
from eexit.rubric import RUBRIC, Comparison, Question, TextScores, preference
from eexit.schema import ERROR, OK
from eexit.seals import encode_further

ROWS_PER_FILE: Final = 1000
SECONDS_BETWEEN_FILES = 15.0
SECONDS_BETWEEN_LOOKS: Final = 0.5  # at the progress, where no answer comes
FAILURES_WITHOUT_ANSWER: Final = 10  # of texts, if none ever worked

Answer = Reply | AskingError


@dataclass(frozen=True)
class JudgingProgress:
    """How many questions are settled, and the tokens that the judge took for them."""

    done: int
    planned: int
    errors: int
    tokens: int

    @property
    def share(self) -> float:
        return self.done / self.planned if self.planned else 1.0

    @property
    def has_begun(self) -> bool:
        return self.done > 0

    def describe(self, rate: float, left: str) -> str:
        return f"{self.done:,}/{self.planned:,} questions · {counted(self.errors, 'error')} · {left}"


@dataclass
class JudgingSummary:
    """How many rows landed in this call, and how many of them are errors, the last of which has this reason."""

    judged: int = 0
    errors: int = 0
    reason: str = ""


class AnswerStream:
    """Asks questions from an event loop in another thread; iterating gives each with its answer as that comes."""

    def __init__(self, judge: JudgeModel, questions: Sequence[Question], concurrency: int) -> None:
        self._judge, self._left, self._concurrency = judge, iter(questions), concurrency
        self._n_questions = len(questions)
        self._came: queue.SimpleQueue[tuple[Question, Answer] | BaseException] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)

    def __enter__(self) -> "AnswerStream":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Give up what is being asked; answers that have come can still be taken."""
        with suppress(RuntimeError):  # the loop is closed: it is done
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[Question, Answer] | None]:
        """Until all are answered; None where nothing came for a while."""
        for _ in range(self._n_questions):
            while True:
                try:
                    came = self._came.get(timeout=SECONDS_BETWEEN_LOOKS)
                    break
                except queue.Empty:
                    yield None
            if isinstance(came, BaseException):
                raise came
            yield came

    def rest(self) -> Iterator[tuple[Question, Answer]]:
        """What has come and was not taken yet."""
        with suppress(queue.Empty):
            while True:
                came = self._came.get_nowait()
                if not isinstance(came, BaseException):
                    yield came

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._task = self._loop.create_task(self._ask_all())
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # to be raised where it is waited for
            self._came.put(error)
        finally:
            self._loop.close()

    async def _ask_all(self) -> None:
        async with Endpoint(self._judge) as endpoint, asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, self._n_questions)):
                group.create_task(self._work(endpoint))

    async def _work(self, endpoint: Endpoint) -> None:
        while question := next(self._left, None):  # shared by all workers
            try:
                self._came.put((question, await endpoint.ask(question)))
            except AskingError as error:
                self._came.put((question, error))
                if error.is_final:
                    self._left = iter(())


def judge_sweep(plan: JudgingPlan, judge: JudgeModel, concurrency: int, display: Display) -> JudgingSummary:
    """Ask all that `plan` wants to know, and land it in the sweep's `judgements/`.

    Raises `SweepStopped` when going on would only fail; whatever is raised, all answers that have come have landed.
    """
    plan.store.probe("the folder")
    questions = plan.questions
    judging = _Judging(plan)
    breaker = _JudgeBreaker()
    progress = JudgingProgress(0, len(questions), 0, 0)
    with display:
        try:
            with (stream := AnswerStream(judge, questions, concurrency)):
                for came in stream:
                    if came:
                        progress = judging.settle(*came, progress)
                        breaker.look_at(came[1])
                    display.show(progress)
                    judging.land_when_due()
        finally:
            for question, answer in stream.rest():
                progress = judging.settle(question, answer, progress)
            judging.land_unfinished()
        display.show(progress, last=True)
    return judging.summary


@dataclass
class _JudgeBreaker:
    """Stops when the endpoint only fails: after failures of the place in a row, or if no text was ever judged."""

    breaker: Breaker = field(default_factory=Breaker)
    has_worked: bool = False
    n_failed_texts: int = 0

    def look_at(self, answer: Answer) -> None:
        """Raises `SweepStopped`."""
        if isinstance(answer, Reply):
            self.has_worked = True
            self.breaker.reset()
        elif answer.is_final:
            raise SweepStopped(str(answer))
        elif not answer.of_text:
            self.breaker.place_failed(answer.kind, str(answer))
        else:
            self.n_failed_texts += 1
            if not self.has_worked and self.n_failed_texts >= FAILURES_WITHOUT_ANSWER:
                raise SweepStopped(f"none of {counted(self.n_failed_texts, 'text')} was judged, the last: {answer}")


class _Judging:
    """Makes rows of answers, and lands them."""

    def __init__(self, plan: JudgingPlan) -> None:
        self.summary = JudgingSummary()
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

    def settle(self, question: Question, answer: Answer, progress: JudgingProgress) -> JudgingProgress:
        """Take an answer; returns the progress after it."""
        self._answers[question] = answer
        for run in self._waiting.pop(question):
            self._open[run] -= 1
            if not self._open[run]:
                self._finish(run)
        failed = isinstance(answer, AskingError)
        return JudgingProgress(
            progress.done + 1,
            progress.planned,
            progress.errors + failed,
            progress.tokens + (answer.tokens if isinstance(answer, Reply) else 0),
        )

    def land_when_due(self) -> None:
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
            table = pa.Table.from_pylist(self._rows, JUDGEMENTS)
            self._plan.store.publish(further_name(JUDGEMENTS_FOLDER, uuid4().hex), encode_further(table))
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
            self.summary.judged += 1
        if reasons := list(dict.fromkeys(str(answer) for _, answer in answers if isinstance(answer, AskingError))):
            self.summary.reason = "; ".join(reasons)
            self.summary.errors += 1
            self._add(run, status=ERROR, error=self.summary.reason)

    def _add(self, run: Judged, **columns: Any) -> None:
        about = {"judge": self._plan.judge, "rubric": RUBRIC, "started": self._started, "text_hash": run.text_hash}
        self._rows.append({**run.identity, **about, **columns})
