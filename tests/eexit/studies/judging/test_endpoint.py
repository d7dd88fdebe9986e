"""Asking a judge over HTTP: what is tried again, and what each failure means."""

import asyncio
import json
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai._base_client
import pytest
from judge_server import TOKENS, Judge, Response, completion, judging, refusal, scores_of

from eexit.quality.rubric import TextScores, about_text
from eexit.studies.judging.endpoint import MOST_BYTES, AskingError, Endpoint, JudgeModel, KeptReplies, Reply

KEY = "sk-THIS-IS-A-SECRET"
QUESTIONS = [about_text(f"prompt {n}", "text" * n) for n in range(3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where replies are kept


def ask(judge: Judge, n: int = 1, replies: KeptReplies | None = None, **how: Any) -> list[Reply | BaseException]:
    """The answers to the first n questions, or what is raised in place of them."""
    model = JudgeModel(**{"base_url": judge.url, "model": "j", "key": KEY, "key_from": "KEY", "timeout": 5.0, **how})

    async def all_of_them() -> list[Reply | BaseException]:
        async with Endpoint(model, replies or KeptReplies()) as opened:
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


PASSING: list[tuple[Response, Mapping[str, Any]]] = [
    (refusal(429, headers={"Retry-After": "0.05"}), {}),
    (refusal(408), {}),
    (Response(500, b"<html>oops</html>"), {}),
    (Response(hangs=True), {"timeout": 0.3}),
]


@pytest.mark.parametrize(("response", "how"), PASSING)
def test_what_may_pass_is_tried_again_and_passes(response: Response, how: Mapping[str, Any]) -> None:
    with judging(fail=lambda n: response if n < 2 else None) as judge:
        [reply] = ask(judge, **how)
        assert isinstance(reply, Reply)
        assert len(judge.asked) == 3


LASTING: list[tuple[Response, int, str, str]] = [
    (refusal(500, "broken"), 5, "status 500", "the endpoint fails with status 500"),
    (refusal(429, "slow down"), 5, "limit", "the endpoint is asked too often (status 429)"),
    (Response(hangs=True), 5, "slow", "the endpoint did not answer within 0.2 s (--timeout)"),
    (refusal(429, "wait", {"Retry-After": "86400"}), 1, "limit", "the endpoint is asked too often (status 429)"),
    (refusal(429, "pay", type="insufficient_quota"), 5, "quota", "the endpoint's quota is used up (status 429)"),
    (refusal(402, "pay"), 1, "quota", "the endpoint's quota is used up (status 402)"),
    (
        refusal(401, f"wrong key {KEY}"),
        1,
        "key",
        "the endpoint lets nobody in without a key (status 401): is the key in KEY right?",
    ),
    (
        refusal(404, "no such model"),
        1,
        "address",
        "the endpoint has nothing there (status 404): is --base-url right, and does it have j?",
    ),
    (
        refusal(400, "unknown", param="response_format"),
        1,
        "setting",
        "the endpoint refuses the request (status 400): another --response-format may do: json_object, or text, "
        "with which the answer is asked for in words",
    ),
    (
        refusal(400, "temperature must be 1"),
        1,
        "setting",
        "the endpoint refuses the request (status 400): --temperature endpoint leaves it out",
    ),
    (refusal(400, "too long"), 1, "status 400", "the endpoint refuses it with status 400"),
    (Response(body=b"{"), 1, "nonsense", "no usable answer (Invalid JSON"),
    (Response(body=f'{{"error": "{KEY}"}}'.encode()), 1, "nonsense", "no usable answer (Field required)"),
    (Response(body=b'{"choices": []}'), 1, "nonsense", "no usable answer (it has no text)"),
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
    assert failed.is_final == (kind in FINAL)
    assert failed.of_text == (kind in ("nonsense", "status 400"))


def test_a_server_that_is_not_there_is_named() -> None:
    with judging() as judge:
        pass
    failed = failure(judge)
    assert (failed.kind, failed.is_final) == ("down", False)
    assert str(failed) == "the endpoint can't be reached (Connection refused)"
    failed = failure(judge, base_url=judge.url.replace("127.0.0.1", "no-such-host.invalid"))
    assert re.fullmatch(r"the endpoint can't be reached \(.*(name|Name).*\)", str(failed))
    with judging() as judge:
        failed = failure(judge, base_url=judge.url.replace("http:", "https:"))
    assert str(failed).startswith("the endpoint can't be reached (TLS: ")


ECHOES: list[Callable[[str], Response]] = [
    lambda said: refusal(400, said),
    lambda said: refusal(401, said),
    lambda said: refusal(404, said),
    lambda said: refusal(418, said, param=said),
    lambda said: refusal(429, "slow", {"Retry-After": "86400", "X-Key": said}),
    lambda said: Response(500, said.encode()),
    lambda said: Response(body=f"<html>{said}".encode()),
    lambda said: Response(body=json.dumps({"choices": said}).encode()),
    lambda said: Response(body=json.dumps({"choices": [{"message": {"refusal": said}}]}).encode()),
    lambda said: completion(f"five, {said}"),
    lambda said: completion({**scores_of({"answer": ""}), "clarity": said}),
    lambda said: completion({**scores_of({"answer": ""}), said: 5}),
    lambda said: Response(reason=f"OK\r\n{said}\x00"),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_nothing_that_an_endpoint_says_is_told(echo: Callable[[str], Response]) -> None:
    """Whatever form a key is echoed in, the reason is the one that any other words would have had."""
    told = []
    for said in (KEY, KEY[::-1], "something else"):
        with judging(fail=lambda n, said=said: echo(said)) as judge:
            told.append(str(failure(judge)))
    assert len(set(told)) == 1, told
    assert told[0]


def test_what_an_endpoint_said_is_in_a_file_that_only_the_user_can_read() -> None:
    replies = KeptReplies()
    with judging(fail=lambda n: [refusal(400, "too long"), completion("hm"), None][n]) as judge:
        ask(judge, 3, replies=replies)
    assert replies.path
    assert stat.S_IMODE(replies.path.stat().st_mode) == 0o600
    kept = replies.path.read_text()
    assert kept.index("the endpoint refuses it with status 400") < kept.index("too long") < kept.index('"hm"')
    assert (
        replies.told == f"what the endpoint replied is in {replies.path}, which only you can read: it may hold your key"
    )


def test_where_an_endpoint_said_nothing_there_is_no_file() -> None:
    replies = KeptReplies()
    with judging() as judge:
        ask(judge, 2, replies=replies)
    [failed] = ask(judge, replies=replies)  # its server has gone
    assert isinstance(failed, AskingError)
    assert (replies.path, replies.told) == (None, "")


def test_an_endpoint_that_says_much_fills_no_disk() -> None:
    replies = KeptReplies()
    for _ in range(100):
        replies.keep("it fails", b"x" * 10**6)
    assert replies.path
    assert replies.path.stat().st_size < 1.1 * MOST_BYTES


def test_a_reply_that_can_not_be_kept_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    replies = KeptReplies()
    with judging(fail=lambda n: refusal(400, "too long")) as judge:
        [failed] = ask(judge, replies=replies)
    assert str(failed) == "the endpoint refuses it with status 400"
    assert replies.told.startswith("what the endpoint replied could not be kept (")
    assert "No such file" in replies.told


def test_a_judge_shows_no_key() -> None:
    judge = JudgeModel("http://h/v1", "j", KEY, "KEY")
    assert KEY not in repr(judge)
