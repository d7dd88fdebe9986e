"""Asking a judge over HTTP: what is tried again and for how long, and what each failure means."""

import asyncio
import json
import textwrap
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from random import Random
from string import ascii_letters, digits
from typing import Any
from urllib.parse import quote

import pytest
from judge_server import TOKENS, Judge, Response, completion, judging, refusal, scores_of

from eexit.quality.rubric import TextScores, about_text
from eexit.studies.judging import endpoint
from eexit.studies.judging.endpoint import AskingError, Endpoint, JudgeModel, Reply, wanted_wait

KEY = "sk-THIS-IS-A-SECRET"
QUESTIONS = [about_text(f"prompt {n}", "text" * n) for n in range(6)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)


def ask(judge: Judge, n: int = 1, at_once: bool = False, **how: Any) -> list[Reply | BaseException]:
    """The answers to the first n questions, or what is raised in place of them."""
    model = JudgeModel(**{"base_url": judge.url, "model": "j", "key": KEY, "key_from": "KEY", "timeout": 5.0, **how})

    async def all_of_them() -> list[Reply | BaseException]:
        async with Endpoint(model) as opened:
            if at_once:
                return await asyncio.gather(*map(opened.ask, QUESTIONS[:n]), return_exceptions=True)
            return [(await asyncio.gather(opened.ask(each), return_exceptions=True))[0] for each in QUESTIONS[:n]]

    with ThreadPoolExecutor(1) as thread:  # a browser test of the same process may have left a loop running in this one
        return thread.submit(asyncio.run, all_of_them()).result()


def failure(judge: Judge, **how: Any) -> AskingError:
    [failed] = ask(judge, **how)
    assert isinstance(failed, AskingError)
    assert KEY not in f"{failed} {failed!r} {failed.__cause__!r}"
    return failed


def test_an_answer_is_validated_and_the_request_is_the_documented_one() -> None:
    with judging() as judge:
        replies = ask(judge, 2)
        assert replies == [Reply(TextScores(**scores_of(quoted)), TOKENS) for quoted in judge.quoted]
        assert judge.headers[0]["authorization"] == f"Bearer {KEY}"
        assert judge.asked[0] == {
            "model": "j",
            "messages": QUESTIONS[0].messages,
            "response_format": QUESTIONS[0].response_format("json_schema"),
            "temperature": 0.0,
        }
        ask(judge, key=None, temperature=None, response_format="json_object")
        assert KEY not in str(judge.headers[-1])
        assert "temperature" not in judge.asked[-1]
        assert judge.asked[-1]["response_format"] == {"type": "json_object"}


PASSING: list[tuple[Callable[[int], Response | None], Mapping[str, Any]]] = [
    (lambda n: refusal(429, headers={"Retry-After": "0.05"}) if n < 3 else None, {}),
    (lambda n: refusal(429) if n < 3 else None, {}),
    (lambda n: refusal(503, headers={"Retry-After": "0.05"}) if n < 3 else None, {}),
    (lambda n: Response(500, b"<html>oops</html>") if n < 3 else None, {}),
    (lambda n: refusal(408) if n < 3 else None, {}),
    (lambda n: Response(hangs=True) if n == 0 else None, {"timeout": 0.3}),
    (lambda n: Response(trickles=True, body=b" " * 1000) if n == 0 else None, {"timeout": 0.3}),
]


@pytest.mark.parametrize(("fail", "how"), PASSING)
def test_what_may_pass_is_tried_again_and_passes(fail: Any, how: Mapping[str, Any]) -> None:
    with judging(fail=fail) as judge:
        [reply] = ask(judge, **how)
        assert isinstance(reply, Reply)
        assert len(judge.asked) == (2 if how else 4)


LASTING: list[tuple[Response, int, str, str]] = [
    (refusal(500, "broken"), 5, "status 500", "the endpoint fails with status 500 (broken)"),
    (refusal(429, "slow down"), 5, "limit", "the endpoint is asked too often (slow down)"),
    (Response(hangs=True), 2, "slow", "the endpoint did not answer within 0.2 s (--timeout)"),
    (
        refusal(429, "wait", {"Retry-After": "86400"}),
        1,
        "limit",
        "the endpoint is asked too often, and wants to be left alone for 86,400 s (wait)",
    ),
    (refusal(429, "pay", type="insufficient_quota"), 1, "quota", "the endpoint's quota is used up (pay)"),
    (refusal(402, "pay"), 1, "quota", "the endpoint's quota is used up (pay)"),
    (
        refusal(401, f"wrong key {KEY}"),
        1,
        "key",
        "the endpoint lets nobody in without a key (wrong key …): is the key in KEY right?",
    ),
    (
        refusal(404, "no such model"),
        1,
        "address",
        "the endpoint has nothing there (no such model): is --base-url right, and does it have j?",
    ),
    (
        refusal(400, "unknown", param="response_format"),
        1,
        "setting",
        "the endpoint refuses the request (unknown): another --response-format may do: json_object, or text, with "
        "which the answer is asked for in words",
    ),
    (
        refusal(400, "temperature must be 1"),
        1,
        "setting",
        "the endpoint refuses the request (temperature must be 1): --temperature endpoint leaves it out",
    ),
    (refusal(400, "too long"), 1, "status 400", "the endpoint refuses it with status 400 (too long)"),
    (Response(body=b"{"), 1, "nonsense", "no usable answer (Invalid JSON"),
    (Response(body=f'{{"error": "{KEY}"}}'.encode()), 1, "nonsense", "no usable answer (Field required; it said"),
    (Response(body=b'{"choices": []}'), 1, "nonsense", "no usable answer (no text, but nothing)"),
    (completion(f"five, {KEY}"), 1, "nonsense", "no usable answer (Invalid JSON"),
    (completion({"coherence": 9}), 1, "nonsense", "no usable answer (coherence: Input should be less than"),
]
FINAL = {"quota", "key", "address", "setting"}


@pytest.mark.parametrize(("response", "tries", "kind", "reason"), LASTING)
def test_what_lasts_is_given_up_with_its_reason(response: Response, tries: int, kind: str, reason: str) -> None:
    with judging(fail=lambda n: response) as judge:
        failed = failure(judge, timeout=0.2 if response.hangs else 5.0)
    assert len(judge.asked) == tries
    assert failed.kind == kind
    assert str(failed).startswith(reason)
    assert "\n" not in str(failed)
    assert failed.is_final == (kind in FINAL or "86,400" in reason)
    assert failed.of_text == (kind in ("nonsense", "status 400"))


def test_a_server_that_is_not_there_is_named() -> None:
    with judging() as judge:
        pass
    failed = failure(judge)
    assert (failed.kind, failed.is_final) == ("down", False)
    assert str(failed).startswith("the endpoint can't be reached (")
    assert "onnect" in str(failed)


def test_while_the_endpoint_wants_to_be_left_alone_nothing_is_asked() -> None:
    came: list[float] = []

    def fail(number: int) -> Response | None:
        came.append(time.monotonic())
        return refusal(429, headers={"Retry-After": "1.5"}) if number < 6 else None

    with judging(fail=fail) as judge:
        assert all(isinstance(reply, Reply) for reply in ask(judge, 6, at_once=True))
    assert len(came) == 12
    assert came[6] - came[5] >= 1.4, "all of them have waited"


def test_a_question_is_not_given_up_while_others_are_answered() -> None:
    """An endpoint that lets one request in three pass answers all of ten times as many, in the end."""
    with judging(fail=lambda n: None if n % 3 == 2 else refusal(429, headers={"Retry-After": "0.01"})) as judge:
        replies = ask(judge, 6, at_once=True)
    assert all(isinstance(reply, Reply) for reply in replies)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-7"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, 0),
    ],
)
def test_the_wait_that_an_endpoint_wants(headers: dict[str, str], seconds: float | None) -> None:
    assert wanted_wait(headers) == seconds


def test_the_wait_may_be_a_date() -> None:
    wait = wanted_wait({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert wait is not None
    assert 55 < wait <= 60


LONG_KEY = "sk-" + "".join(Random(0).choices(ascii_letters + digits + "-_", k=365))
ECHOES: list[Callable[[int], Response]] = [
    lambda n: Response(body=b"x" * n + LONG_KEY.encode()),
    lambda n: Response(body=json.dumps({"choices": "x" * n, "headers": {"Authorization": LONG_KEY}}).encode()),
    lambda n: Response(body=b"x" * n + LONG_KEY[n:].encode()),
    lambda n: Response(body=b"x" * n + "\n".join(textwrap.wrap(LONG_KEY, 20)).encode()),
    lambda n: completion("x" * n + LONG_KEY[: n + 20]),
    lambda n: refusal(400, "x" * n + LONG_KEY[-200:]),
    lambda n: refusal(418, "x" * n + quote(LONG_KEY[n:], safe="")),
    lambda n: Response(body=b"x" * n + b64encode(b"Bearer " + LONG_KEY.encode())),
    lambda n: refusal(429, "x" * n + LONG_KEY[:100], {"Retry-After": "86400"}),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_no_part_of_a_key_is_told_wherever_an_answer_is_cut(echo: Callable[[int], Response]) -> None:
    cuts = (0, 20, 150, 270, 290)
    with judging(fail=lambda n: echo(cuts[n % len(cuts)])) as judge:
        failures = [str(failed) for failed in ask(judge, len(cuts), key=LONG_KEY)]
    encoded = b64encode(b"Bearer " + LONG_KEY.encode()).decode()[12:]
    for secret in (LONG_KEY, encoded):
        for failed in failures:
            assert not {secret[at : at + 8] for at in range(len(secret) - 7)} & {
                failed[at : at + 8] for at in range(len(failed) - 7)
            }


def test_a_password_in_the_address_is_not_told_either() -> None:
    with judging(fail=lambda n: refusal(400, "Basic dXNlcjpwYXNzd29yZDEyMw==, password123")) as judge:
        failed = failure(judge, base_url=judge.url.replace("//", "//user:password123@"))
    assert str(failed) == "the endpoint refuses it with status 400 (Basic dXNlcjp…w==, …)"


def test_a_judge_shows_no_key() -> None:
    judge = JudgeModel("http://h/v1", "j", KEY, "KEY")
    assert KEY not in repr(judge)
    assert judge.public(f"see https://user:{KEY}@h/v1?key=x\n or {KEY}, \ud800") == "see https://…@h/v1?… or …, ?"
    assert KEY[-5:] not in judge.public("x" * 290 + KEY), "what is cut off was hidden before"
