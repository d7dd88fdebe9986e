"""Scores of a sweep's texts by a language model as judge: `judge_sweep`, for `eexit judge`. Needs no Ray.

Retries, rate limits and the answers' schema come from `openai` (extra `judge`). The endpoint is not trusted: the size
and time of a reply are bounded, and redirects are refused. Messages on failures have fixed words for each status, since
the endpoint's own words may echo the key.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import httpx2
import numpy as np
import openai
from pydantic import AliasPath, BaseModel, Field, ValidationError

from eexit.errors import SweepStopped, UsageError
from eexit.output.locations import redact
from eexit.output.progress import Display, Progress
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, interval, is_known, pluralize
from eexit.plan.configuration import short_name
from eexit.plan.hashes import content_hash
from eexit.plan.runs import ERROR, OK
from eexit.plan.splits import representative, sampling_units
from eexit.quality.estimates import MIN_SAMPLES, ValueKind, estimate_columns, means_of_units
from eexit.quality.intervals import LEVEL
from eexit.quality.rubric import ASPECTS, RUBRIC, TextScores, question, scores_in
from eexit.results.committed import read_columns
from eexit.results.finished_sweep import manifest_of, refuse_unknown
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import Lease
from eexit.results.study_table import Row
from eexit.results.study_tables import JUDGEMENTS
from eexit.results.tables import CONFIGURATION

TRIES: Final = 5  # per text, if each failure may be temporary
MOST_BYTES: Final = 2**20  # of a reply; most have a few thousand
MOST_FAILURES: Final = 5  # in a row; failures due to the text count only before the first success
SECONDS_BETWEEN_FILES = 15.0
HEADINGS: Final = ("co-\nher-\nence", "com-\nplete-\nness", "clar-\nity", "no\nrepe-\ntition")  # for 80 columns

_KEPT_HEADERS: Final = ("retry-after", "retry-after-ms", "x-should-retry")
_FINAL: Final = {  # statuses that are the same for all texts
    **dict.fromkeys(range(300, 400), "has moved, and a request is not sent on: give --base-url its new address"),
    **dict.fromkeys((401, 402), "refuses access: is the key right (--key-from), and has it quota left?"),
    **dict.fromkeys((404, 405), "has nothing there: are --base-url and --model right?"),
}
_IDENTITY: Final = ("run_id", "prompt_id", *CONFIGURATION, "seed")


@dataclass(frozen=True)
class JudgingPlan:
    """Questions for a judge: one for each text without scores, with its runs by `text_hash`."""

    store: Store
    judge: str
    asked: Mapping[str, Sequence[Row]]
    known: Sequence[tuple[Row, Row]]  # runs not judged whose text has scores, and the row with the scores
    keys: Sequence[str]  # configurations, in the sweep's order
    unit_of: Mapping[str, str]  # prompt id → sampling unit
    told: str  # a summary for users


def plan_judging(results: str, judge: str, keys: Sequence[str], n_prompts: int | None) -> JudgingPlan:
    """Return the plan of judging a sweep, finished or not; `n_prompts` are drawn (`eexit.plan.splits`), None: all.

    Raise `UsageError` if there is nothing to judge.
    """
    store, name = open_store(results), redact(results)
    manifest = manifest_of(store, name)
    there = [each["key"] for each in manifest.configurations]
    refuse_unknown(keys, there, name)
    chosen = [key for key in there if key in (keys or there)]
    prompts = {prompt["id"]: prompt["prompt"] for prompt in manifest.config["prompts"]}
    prompt_ids = list(prompts) if n_prompts is None else representative(prompts, n_prompts)
    landed = read_columns(store, [*_IDENTITY, "prompt", "status", "text"]).sort_by([("status", "ascending")])
    runs = list({row["run_id"]: row for row in landed.to_pylist()}.values())  # keeps ok where an error was retried
    place = {prompt_id: at for at, prompt_id in enumerate(prompt_ids)}
    runs = [run for run in runs if run["prompt_id"] in place and run["configuration"] in chosen]
    runs.sort(key=lambda run: (place[run["prompt_id"]], run["seed"], chosen.index(run["configuration"])))
    before = {row["run_id"]: row for row in judged_by(store, judge) if row["status"] == OK}
    scores, prefillers = {row["text_hash"]: row for row in before.values()}, manifest.of_prompts("prefiller")
    asked, known, n_done = defaultdict[str, list[Row]](list), list[tuple[Row, Row]](), 0
    for row in [row for row in runs if row["status"] == OK]:
        text = prefillers[row["prompt_id"]] + row["text"]
        text_hash = content_hash(row["prompt"], text)
        run = {**row, "text": text, "text_hash": text_hash}
        if run["run_id"] in before and before[run["run_id"]]["text_hash"] == text_hash:
            n_done += 1
        elif text_hash in scores:
            known.append((run, scores[text_hash]))
        else:
            asked[text_hash].append(run)
    if not (asked or known or n_done):
        raise UsageError(f"{name} has no run without an error: there is nothing to judge")
    n_failed = sum(run["status"] != OK for run in runs)
    n_missing = len(prompt_ids) * len(manifest.config["seeds"]) * len(chosen) - len(runs)
    messages = [each["content"] for run, *_ in asked.values() for each in question(run["prompt"], run["text"])]
    told = (
        f"{judge} would be asked {pluralize(len(asked), 'question')}, with {sum(map(len, messages)):,} "
        f"characters, about {pluralize(sum(map(len, asked.values())), 'run')}; {len(known):,} have a text "
        f"that is known; {n_done:,} were judged before, {n_failed:,} failed, {n_missing:,} are not committed yet"
    )
    return JudgingPlan(store, judge, asked, known, chosen, sampling_units(manifest.config["prompts"]), told)


def judged_by(store: Store, judge: str) -> list[Row]:
    """Return the valid judgements by this judge with the current rubric."""
    return [row for row in JUDGEMENTS.rows(store) if (row["judge"], row["rubric"]) == (judge, RUBRIC)]


class JudgeRequestError(openai.OpenAIError):
    """Error for a text without scores: due to the text if `of_text`; the same for all texts if `is_final`."""

    def __init__(self, reason: str, *, of_text: bool = False, is_final: bool = False) -> None:
        super().__init__(reason)
        self.of_text, self.is_final = of_text, is_final


class _Completion(BaseModel):  # the fields of a completion that are read
    text: str = Field(validation_alias=AliasPath("choices", 0, "message", "content"))
    tokens: int = Field(0, validation_alias=AliasPath("usage", "total_tokens"))


class _BoundedClient(openai.DefaultAsyncHttpxClient):
    """HTTP client that reads at most `MOST_BYTES` of a reply within `seconds` of the request, without redirects.

    Replies must be uncompressed, and only headers on retries are kept: compression or a charset may expand a reply.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(follow_redirects=False)
        self._seconds = seconds

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._seconds):
                async with aclosing(await super().send(request, **{**how, "stream": True})) as reply:
                    if reply.headers.get("content-encoding", "identity") != "identity":
                        raise JudgeRequestError("the endpoint compresses its replies, against the request")
                    content = bytearray()
                    async for chunk in reply.aiter_raw():
                        content += chunk
                        if len(content) > MOST_BYTES:
                            raise JudgeRequestError(f"the endpoint's reply is longer than {MOST_BYTES:,} bytes")
        except TimeoutError:
            raise httpx2.ReadTimeout("the whole time of a try", request=request) from None
        headers = {name: reply.headers[name] for name in _KEPT_HEADERS if name in reply.headers}
        return httpx2.Response(reply.status_code, headers=headers, content=bytes(content), request=request)


class JudgeClient:
    """Connection to one judge. `timeout` is in seconds, for a whole try; `how` are further fields of each request."""

    def __init__(self, base_url: str, key: str | None, timeout: float, **how: Any) -> None:
        self.client = openai.AsyncOpenAI(
            api_key=key or "no-key",
            base_url=base_url,
            timeout=timeout,
            max_retries=TRIES - 1,
            default_headers={"Accept-Encoding": "identity"},
            http_client=_BoundedClient(timeout),
        )
        self._how: dict[str, Any] = {"response_format": TextScores, **how}

    async def ask(self, messages: Any) -> tuple[TextScores, int]:
        """Return the judge's scores and the tokens used. Raise `JudgeRequestError` without the endpoint's own words."""
        try:
            response = await self.client.chat.completions.with_raw_response.parse(messages=messages, **self._how)
            completion = _Completion.model_validate_json(response.http_response.content)
            return scores_in(completion.text), completion.tokens
        except openai.APITimeoutError:
            raise JudgeRequestError(
                f"the endpoint did not answer within {self.client.timeout:g} s (--timeout)"
            ) from None
        except openai.APIStatusError as error:
            raise _meaning(error.status_code) from None
        except openai.APIConnectionError as error:
            raise JudgeRequestError(f"the endpoint can't be reached ({_of_system(error)})") from None
        except ValueError as error:  # neither our message nor pydantic's quotes the reply
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise JudgeRequestError(f"no usable answer ({said})", of_text=True) from None


def _meaning(status: int) -> JudgeRequestError:
    """Return the error for an HTTP status other than success, with its usual cause."""
    if reason := _FINAL.get(status):
        return JudgeRequestError(f"the endpoint {reason} (status {status})", is_final=True)
    of_text = status < 500 and status not in (408, 409, 429)
    limit = "is asked too often, or has no quota left" if status == 429 else "fails"
    reason = "refuses the text, --temperature or --response-format" if of_text else limit
    return JudgeRequestError(f"the endpoint {reason} (status {status})", of_text=of_text)


def _of_system(error: BaseException | None) -> str:
    """Return the message of the operating system or of TLS for a refused connection, else a general one."""
    while error is not None and not getattr(error, "strerror", None):
        several = error.exceptions if isinstance(error, BaseExceptionGroup) else ()  # one per address
        error = several[0] if several else error.__cause__ or error.__context__
    return getattr(error, "strerror", "it breaks off, or what it sends is no HTTP")


def judge_sweep(
    plan: JudgingPlan, judge: JudgeClient, concurrency: int, display: Display, lease: Lease
) -> "JudgeSession":
    """Send all questions of the plan to the judge, and commit the scores to the sweep's `judgements/`.

    A second thread sends the questions, since signals interrupt the main thread only. All received answers are
    committed, even if the call fails. The plan must be made under `lease`, so that no two calls pay for the same
    answers. Raise `SweepStopped` if the lease is lost, or all further questions would fail.
    """
    judging, loop = JudgeSession(plan), asyncio.new_event_loop()
    asking = loop.create_task(_ask_all(judging, judge, concurrency))

    def ask_all() -> None:
        """Run the event loop until all questions are answered or given up, then commit. Raise `SweepStopped`."""
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(asking)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            loop.close()
            judging.publish()

    with display, ThreadPoolExecutor(1, "judge") as pool:
        all_asked = pool.submit(ask_all)
        try:
            while not wait([all_asked], 0.5).done:
                lease.check()
                display.show(judging.progress)
        finally:
            with suppress(RuntimeError):  # the loop is closed: all questions are answered
                loop.call_soon_threadsafe(asking.cancel)
            all_asked.result()
        display.show(judging.progress, last=True)
    return judging


async def _ask_all(judging: "JudgeSession", judge: JudgeClient, concurrency: int) -> None:
    left = iter(judging.plan.asked.values())

    async def judge_runs() -> None:
        for runs in left:  # shared by all workers
            try:
                scores, tokens = await judge.ask(question(runs[0]["prompt"], runs[0]["text"]))
            except JudgeRequestError as error:
                judging.fail(runs, error)
            else:
                judging.score(runs, scores, tokens)

    async with judge.client, asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(judge_runs())


class JudgeSession:
    """Writer of the judge's answers as rows; `progress` may be read from other threads."""

    def __init__(self, plan: JudgingPlan) -> None:
        self.plan, self.reason = plan, ""  # the last error's message
        self.counts = Counter[str]()  # of rows, by status
        self._n_scored = self._n_failed = self._n_in_a_row = self._tokens = 0  # of questions
        self._started, self._rows, self._last_publication = datetime.now(UTC), list[Row](), time.monotonic()
        for run, row in plan.known:
            self._add([run], status=OK, **{name: row[name] for name in ASPECTS})

    @property
    def progress(self) -> Progress:
        done, planned = self._n_scored + self._n_failed, len(self.plan.asked)
        doing = f"{done:,}/{planned:,} questions · {pluralize(self._n_failed, 'error')}"
        return Progress(doing, self._tokens, done / planned if planned else 1.0, done > 0)

    def score(self, runs: Sequence[Row], scores: TextScores, tokens: int) -> None:
        self._n_scored, self._n_in_a_row, self._tokens = self._n_scored + 1, 0, self._tokens + tokens
        self._add(runs, status=OK, **scores.model_dump())

    def fail(self, runs: Sequence[Row], error: JudgeRequestError) -> None:
        """Add rows with the error. Raise `SweepStopped` if all further questions would fail."""
        self._n_failed, self.reason = self._n_failed + 1, str(error)
        self._add(runs, status=ERROR, error=self.reason)
        self._n_in_a_row += not (error.of_text and self._n_scored)
        if error.is_final or self._n_in_a_row >= MOST_FAILURES:
            raise SweepStopped(f"{pluralize(self._n_in_a_row, 'failure')} in a row, the last: {error}")

    def publish(self) -> None:
        if self._rows:
            JUDGEMENTS.publish(self.plan.store, uuid4().hex, self._rows)
        self._rows, self._last_publication = [], time.monotonic()

    def _add(self, runs: Sequence[Row], **columns: Any) -> None:
        """Add a row with these columns for each run, and commit the rows so far if a commit is due."""
        about = {"judge": self.plan.judge, "rubric": RUBRIC, "started": self._started} | columns
        self._rows += [{name: run[name] for name in (*_IDENTITY, "text_hash")} | about for run in runs]
        self.counts[columns["status"]] += len(runs)
        if time.monotonic() - self._last_publication >= SECONDS_BETWEEN_FILES:
            self.publish()


def judgements_table(rows: Sequence[Row], keys: Sequence[str], unit_of: Mapping[str, str]) -> ResultTable:
    """Return a table of one judge's valid rows by configuration, with means over sampling units (`unit_of`)."""
    table = ResultTable(
        "Scores from 1 to 5, higher is better. Means over n prompts of the means over each prompt's seeds; beneath, a "
        f"{LEVEL:.0%} interval over prompts, from {MIN_SAMPLES} prompts on."
    )
    table.add("key", "configuration", shorten=short_name)
    table.add("number", "n", *HEADINGS)
    for key in keys:
        of_key = [row for row in rows if (row["configuration"], row["status"]) == (key, OK)]
        scores_RA = np.array([[row[name] for name in ASPECTS] for row in of_key], float).reshape(-1, len(ASPECTS))
        prompt_R = [row["prompt_id"] for row in of_key]
        scores_PA = means_of_units(scores_RA, prompt_R, [unit_of[prompt_id] for prompt_id in prompt_R])
        means = estimate_columns(scores_PA, [ValueKind.NUMBER] * len(ASPECTS))
        ends = [f"\n{interval(mean.low, mean.high, '.2f')}" if is_known(mean.low) else "" for mean in means]
        cells = [format_number(mean.mean, ".2f") + end for mean, end in zip(means, ends, strict=True)]
        table.add_row(key, f"{len(scores_PA):,}", *cells)
    return table
