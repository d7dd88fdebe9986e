"""Asking a judge through an OpenAI-compatible endpoint, and what a failure means.

Requests go through `openai` (of the extra `judge`), which tries again what may pass, and waits as the endpoint asks. A
failure that lasts is told in words of our own, by its status; what the endpoint said goes to `KeptReplies`, since it
may echo the key.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLError
from typing import Any, Final

from pydantic import AliasPath, BaseModel, Field, ValidationError

from eexit.errors import UsageError, first_line
from eexit.quality.rubric import Question, RubricVerdict

TRIES: Final = 5  # of one question, if each fails in a way that may pass
MOST_BYTES_OF_ONE: Final = 64 * 2**10  # of one reply
MOST_BYTES: Final = 2**20  # of all of them; the first ones are kept
NO_KEY: Final = "no-key"  # what is sent where no key is needed

_OUT_OF_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_MAY_PASS = (408, 409)  # and what is wrong inside the server


class AskingError(Exception):
    """A question has no answer. `kind` groups failures of one cause."""

    def __init__(self, kind: str, reason: str, *, of_text: bool = False, is_final: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.of_text = of_text  # another text may work
        self.is_final = is_final  # no question will work, until somebody does something about it


class _Completion(BaseModel):
    """The part of a completion that is read."""

    choices: list[Any]
    text: str | None = Field(None, validation_alias=AliasPath("choices", 0, "message", "content"))
    tokens: int = Field(0, validation_alias=AliasPath("usage", "total_tokens"))


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
    timeout: float = 60.0  # seconds in which one try has to say something
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


class KeptReplies:
    """What an endpoint replied where it gave no verdict, in a file of the folder for temporary files.

    A reply may echo the key that it was sent, in any form. So none of it is printed, logged or stored among results:
    only the user can read the file, and messages say where that is.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._trouble = ""
        self._n_bytes = 0

    def keep(self, reason: str, reply: bytes) -> None:
        """Add a reply below what it was taken for. One that can't be written is given up, and `told` says why."""
        if self._n_bytes >= MOST_BYTES:
            return
        entry = f"{reason}:\n".encode() + reply[:MOST_BYTES_OF_ONE] + b"\n\n"
        try:
            if self.path is None:
                descriptor, name = tempfile.mkstemp(prefix="eexit-judge-", suffix=".txt")  # readable by its owner alone
                os.close(descriptor)
                self.path = Path(name)
            with self.path.open("ab") as file:
                file.write(entry)
        except OSError as error:
            self._trouble = first_line(error)
        self._n_bytes += len(entry)

    @property
    def told(self) -> str:
        """Where the replies are, in a sentence, or nothing if there are none."""
        if self._trouble:
            return f"what the endpoint replied could not be kept ({self._trouble})"
        if self.path is None:
            return ""
        return f"what the endpoint replied is in {self.path}, which only you can read: it may hold your key"


class Endpoint:
    """Asks one judge; belongs to the event loop in which it is entered. What makes no verdict is kept in `replies`."""

    def __init__(self, judge: JudgeModel, replies: KeptReplies) -> None:
        from openai import AsyncOpenAI

        self.judge, self._replies = judge, replies
        self._client = AsyncOpenAI(
            api_key=judge.key or NO_KEY, base_url=judge.base_url, timeout=judge.timeout, max_retries=TRIES - 1
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, question: Question) -> Reply:
        """The judge's answer. Raises `AskingError`, whose message says nothing of what the endpoint said."""
        import openai

        judge = self.judge
        asked: dict[str, Any] = {"model": judge.model, "messages": question.messages}
        asked["response_format"] = question.response_format(judge.response_format)
        if judge.temperature is not None:
            asked["temperature"] = judge.temperature
        try:
            response = await self._client.chat.completions.with_raw_response.create(**asked)
        except openai.APITimeoutError:
            raise AskingError("slow", f"the endpoint did not answer within {judge.timeout:g} s (--timeout)") from None
        except openai.APIStatusError as error:
            meaning = self._meaning(error)
            self._replies.keep(str(meaning), error.response.content)
            raise meaning from None
        except openai.APIConnectionError as error:
            reason = _of_system(error)
            if reason is None:  # what a library says of it may hold what the endpoint sent
                reason = "it breaks off, or what it sends is no HTTP"
                self._replies.keep(reason, str(error.__cause__).encode(errors="replace"))
            raise AskingError("down", f"the endpoint can't be reached ({reason})") from None
        return self._read(question, bytes(response.http_response.content))

    def _meaning(self, error: Any) -> AskingError:
        """What a status other than success means."""
        status, body = error.status_code, error.response.text
        if status == 402 or (status == 429 and any(code in body for code in _OUT_OF_QUOTA)):
            return AskingError("quota", f"the endpoint's quota is used up (status {status})", is_final=True)
        if status == 429:
            return AskingError("limit", f"the endpoint is asked too often (status {status})")
        if status in _MAY_PASS or status >= 500:
            return AskingError(f"status {status}", f"the endpoint fails with status {status}")
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
            if completion.text is None:
                raise ValueError("it has no text")
            verdict = question.read(completion.text)
        except ValueError as error:  # of which neither our words nor pydantic's quote anything of the body
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            failure = AskingError("nonsense", f"no usable answer ({said})", of_text=True)
            self._replies.keep(str(failure), body)
            raise failure from None
        return Reply(verdict, completion.tokens)


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


def _instead(body: str) -> str | None:
    """What to do if a request was refused for one of its settings, whatever the text; None if it was not."""
    if any(word in body for word in ("response_format", "json_schema", "json_object")):
        return "another --response-format may do: json_object, or text, with which the answer is asked for in words"
    return "--temperature endpoint leaves it out" if "temperature" in body else None
