"""Asking a judge through an OpenAI-compatible endpoint: what is tried again, for how long, and what a failure means.

Requests go through `openai` (of the extra `judge`), whose own retries are off: there is one way of trying again, which
all requests in flight know of. When the endpoint says that it is asked too often, all of them wait. A failure is told
in words of our own, by its status; what the endpoint said goes to `KeptReplies`, since it may echo the key.
"""

import asyncio
import email.utils
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from ssl import SSLError
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from eexit.errors import UsageError
from eexit.quality.rubric import Question, RubricVerdict
from eexit.studies.judging.kept_replies import KeptReplies

TRIES: Final = 5  # of one question, if each fails in a way that may pass
TRIES_IF_SLOW: Final = 2  # each of which has already waited for the whole timeout
FIRST_WAIT_SECONDS = 0.5  # then twice as long each time
LONGEST_WAIT_SECONDS = 120.0  # an endpoint that wants a longer one is asked again by another call
NO_KEY: Final = "no-key"  # what is sent where no key is needed

_OUT_OF_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_MAY_PASS = (408, 409, 425, 429)  # and what is wrong inside the server


class AskingError(Exception):
    """A question has no answer. `kind` groups failures of one cause."""

    def __init__(self, kind: str, reason: str, *, of_text: bool = False, is_final: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.of_text = of_text  # another text may work
        self.is_final = is_final  # no question will work, until somebody does something about it


class _RetryError(Exception):
    """A try failed in a way that may pass; `wait` is how many seconds the endpoint wants to be left alone."""

    def __init__(self, failure: AskingError, tries: int = TRIES, wait: float | None = None, limits: bool = False):
        super().__init__(str(failure))
        self.failure, self.tries, self.wait = failure, tries, wait
        self.limits = limits  # the endpoint is asked too often


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    total_tokens: int = 0


class _Completion(BaseModel):
    """The part of a completion that is read."""

    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Reply:
    """A verdict, and the tokens that it took."""

    verdict: RubricVerdict
    tokens: int


@dataclass(frozen=True)
class JudgeModel:
    """Which model is asked, where and how. `key_from` is what the key comes from, for messages; None: it needs none."""

    base_url: str
    model: str
    key: str | None
    key_from: str | None
    timeout: float = 60.0  # seconds for one try, from its first byte to the last
    temperature: float | None = 0.0  # None: the endpoint's own
    response_format: str = "json_schema"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"  # without the key


def require_client() -> None:
    """Raises `UsageError` if `openai` is not installed."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UsageError("judging needs the package openai: pip install 'eexit[judge]'") from error


class Endpoint:
    """Asks one judge; belongs to the event loop in which it is entered. What makes no verdict is kept in `replies`."""

    def __init__(self, judge: JudgeModel, replies: KeptReplies) -> None:
        from openai import AsyncOpenAI

        self.judge, self._replies = judge, replies
        self._client = AsyncOpenAI(api_key=judge.key or NO_KEY, base_url=judge.base_url, timeout=None, max_retries=0)
        self._leave_alone_until = 0.0
        self._n_answers = 0

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, question: Question) -> Reply:
        """The judge's answer. Raises `AskingError`, whose message says nothing of what the endpoint said."""
        random, failed, n_answers = Random(question.quoted), 0, self._n_answers
        while True:
            await self._wait_while_limited()
            try:
                reply = self._read(question, await self._try(question))
            except _RetryError as error:
                if error.limits and self._n_answers > n_answers:  # others get answers: this one has been unlucky
                    failed, n_answers = 0, self._n_answers
                failed += 1
                if failed >= error.tries:
                    raise error.failure from None
                await self._back_off(error, failed, random)
            else:
                self._n_answers += 1
                return reply

    async def _wait_while_limited(self) -> None:
        while (seconds := self._leave_alone_until - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    async def _back_off(self, error: _RetryError, failed: int, random: Random) -> None:
        wait = FIRST_WAIT_SECONDS * 2 ** (failed - 1) * random.uniform(0.75, 1.25)
        wait = min(max(wait, error.wait or 0.0), LONGEST_WAIT_SECONDS)
        if error.limits or error.wait:
            self._leave_alone_until = max(self._leave_alone_until, time.monotonic() + wait)
        else:
            await asyncio.sleep(wait)

    async def _try(self, question: Question) -> bytes:
        """The body of one response. Raises `AskingError`, or `_RetryError` if the next try may work."""
        import openai

        judge = self.judge
        asked: dict[str, Any] = {"model": judge.model, "messages": question.messages}
        asked["response_format"] = question.response_format(judge.response_format)
        if judge.temperature is not None:
            asked["temperature"] = judge.temperature
        try:
            async with asyncio.timeout(judge.timeout):
                response = await self._client.chat.completions.with_raw_response.create(**asked)
                return bytes(response.http_response.content)
        except TimeoutError:
            failure = AskingError("slow", f"the endpoint did not answer within {judge.timeout:g} s (--timeout)")
            raise _RetryError(failure, TRIES_IF_SLOW) from None
        except openai.APIStatusError as error:
            meaning = self._meaning(error)
            self._replies.keep(str(meaning), error.response.content)
            raise meaning from None
        except openai.APIConnectionError as error:
            reason = _of_system(error)
            if reason is None:  # what a library says of it may hold what the endpoint sent
                reason = "it breaks off, or what it sends is no HTTP"
                self._replies.keep(reason, str(error.__cause__).encode(errors="replace"))
            raise _RetryError(AskingError("down", f"the endpoint can't be reached ({reason})")) from None

    def _meaning(self, error: Any) -> Exception:
        """What a status other than success means."""
        status, body = error.status_code, error.response.text
        if status == 402 or (status == 429 and any(code in body for code in _OUT_OF_QUOTA)):
            return AskingError("quota", f"the endpoint's quota is used up (status {status})", is_final=True)
        if status in _MAY_PASS or status >= 500:
            return _passing(status, error.response.headers)
        if status == 401:
            way_out = f"is the key in {self.judge.key_from} right?" if self.judge.key_from else "it wants a key"
            reason = f"the endpoint lets nobody in without a key (status {status}): {way_out}"
            return AskingError("key", reason, is_final=True)
        if status in (404, 405):
            way_out = f"is --base-url right, and does it have {self.judge.model}?"
            return AskingError("address", f"the endpoint has nothing there (status {status}): {way_out}", is_final=True)
        if status in (400, 422) and (instead := _instead(body)):
            reason = f"the endpoint refuses the request (status {status}): {instead}"
            return AskingError("setting", reason, is_final=True)
        return AskingError(f"status {status}", f"the endpoint refuses it with status {status}", of_text=True)

    def _read(self, question: Question, body: bytes) -> Reply:
        """Raises `AskingError` for nonsense."""
        try:
            completion = _Completion.model_validate_json(body)
            message = completion.choices[0].message if completion.choices else _Message()
            if message.content is None:
                raise ValueError("it has no text")
            verdict = question.read(message.content)
        except ValueError as error:  # of which neither our words nor pydantic's quote anything of the body
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            failure = AskingError("nonsense", f"no usable answer ({said})", of_text=True)
            self._replies.keep(str(failure), body)
            raise failure from None
        return Reply(verdict, completion.usage.total_tokens if completion.usage else 0)


def _passing(status: int, headers: Mapping[str, str]) -> Exception:
    """The failure of a status that may pass."""
    wait, limits = wanted_wait(headers), status == 429
    kind, of_status = ("limit", f" (status {status})") if limits else (f"status {status}", "")
    what = "the endpoint is asked too often" if limits else f"the endpoint fails with status {status}"
    if wait is not None and wait > LONGEST_WAIT_SECONDS:
        too_long = f"{what}, and wants to be left alone for {wait:,.0f} s{of_status}"
        return AskingError(kind, too_long, is_final=True)
    return _RetryError(AskingError(kind, f"{what}{of_status}"), wait=wait, limits=limits)


def _of_system(error: BaseException | None) -> str | None:
    """Why there is no connection in the words of the operating system or of TLS, if it is they that refuse it."""
    while error is not None:
        if isinstance(error, SSLError):
            return f"TLS: {getattr(error, 'verify_message', error.reason)}"
        if isinstance(error, OSError) and error.errno is not None:
            return os.strerror(error.errno) if error.errno > 0 else error.strerror  # below 0: a name is not known
        several = error.exceptions if isinstance(error, BaseExceptionGroup) else ()  # an attempt for each address
        error = several[0] if several else error.__cause__ or error.__context__
    return None


def wanted_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a response wants to be waited for, by its Retry-After, which holds seconds or a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _instead(body: str) -> str | None:
    """What to do if a request was refused for one of its settings, whatever the text; None if it was not."""
    if any(word in body for word in ("response_format", "json_schema", "json_object")):
        return "another --response-format may do: json_object, or text, with which the answer is asked for in words"
    return "--temperature endpoint leaves it out" if "temperature" in body else None
