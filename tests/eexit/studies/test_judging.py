"""`eexit judge` against a judge behind real HTTP: what lands, what is asked once, and what faults leave."""

import asyncio
import gzip
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai._base_client
import pandas as pd
import pytest
from commands import here
from driving import land_rows, wait_until
from judge_server import TOKENS, Judge, Response, completion, judging, refusal, scores_of
from scripted import sweep_of

import eexit.studies
from eexit.plan.runs import Run
from eexit.quality.rubric import TextScores, question
from eexit.results.store import lease
from eexit.results.store.folder import open_store
from eexit.results.store.lease import JUDGING, hold
from eexit.studies import judging as judging_module
from eexit.studies.judging import MOST_BYTES, TRIES, JudgeClient, JudgeRequestError
from jobs.judge import main

KEY = "sk-THIS-IS-A-SECRET"
PROMPTS = ("one", "two", "three", "failed")
KEPT = "scores stay in judgements: the same command resumes from them"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_RENEWALS", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def write(out: Path, prompts: Sequence[str] = PROMPTS, leave_out: int = 0) -> Path:
    """Write a sweep: unfrozen/kl/1 has the texts of normal, and the runs of the prompt `failed` are errors."""

    def columns(run: Run) -> dict[str, Any]:
        failed = {"status": "error", "error": "no"} if run.prompt.prompt == "failed" else {}
        longer = " é longer" if run.configuration.key.endswith("/0.5") else ""
        return {"text": f"{run.prompt.prompt} {run.seed}{longer}", **failed}

    config = sweep_of("m", *prompts, modes=("normal", "unfrozen"), kl_factors=(0.5, 1.0))
    return land_rows(out, config, columns, leave_out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write(tmp_path / "out")


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judging() as judge:
        yield judge


def judged(out: Path, judge: Judge, *flags: str, model: str = "j") -> Any:
    done = here(main, out, "--base-url", judge.url, "--model", model, *flags)
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "judgements").sort_values("started", ignore_index=True, kind="stable")


def texts(out: Path) -> pd.DataFrame:
    found = pd.read_parquet(out / "generations")
    return found[found.status == "ok"].set_index("run_id")


def test_every_text_is_scored_once(out: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    for keys, n_asked, n_rows in ((["normal"], 3, 3), (["normal", "unfrozen/kl/1"], 3, 6), ([], 6, 9)):
        done = judged(out, judge, *(["--configurations", *keys] if keys else []))
        assert (done.returncode, len(judge.asked), len(rows(out))) == (0, n_asked, n_rows), done.stderr
    found, theirs = rows(out), texts(out)
    assert sorted(found.run_id) == sorted(theirs.index), "the failed runs are left out"
    for row in found.to_dict("records"):
        run = theirs.loc[row["run_id"]]
        assert {name: row[name] for name in scores_of({"answer": ""})} == scores_of({"answer": run["text"]})
        assert (row["configuration"], row["prompt_id"], row["seed"]) == (run["configuration"], run["prompt_id"], 0)
    assert (set(found.judge), set(found.status)) == ({"j"}, {"ok"})
    assert "unfrozen" not in json.dumps(judge.asked), "whose text it is"
    assert "21 tokens · 3/3 questions · 0 errors · 0:00 left" in done.stderr
    assert (judged(out, judge).stdout, len(judge.asked)) == (done.stdout, 6)
    monkeypatch.setattr(judging_module, "SECONDS_BETWEEN_FILES", 0.0)

    def wait_for_file(number: int) -> None:
        """While a question is open, the answers so far land."""
        wait_until(lambda: len(list(out.glob("judgements/*.parquet"))) == n_files + number - 6, seconds=20)

    judge.fail, n_files = wait_for_file, len(list(out.glob("judgements/*.parquet")))
    assert judged(out, judge, "--concurrency", "1", model="another").returncode == 0
    assert len(judge.asked) == 12, "another judge is asked anew"


def test_what_has_landed_is_judged_or_a_sample_of_which_a_larger_one_has_all(tmp_path: Path, judge: Judge) -> None:
    half = write(tmp_path / "half", leave_out=2)
    assert judged(half, judge).returncode == 0
    assert Counter(texts(half).loc[rows(half).run_id].prompt) == {"one": 1, "two": 3, "three": 3}
    out = write(tmp_path / "out", [f"text {n}" for n in range(12)])
    judged(out, judge, "--limit", "3")
    before = set(rows(out).prompt_id)
    assert before != {"0", "1", "2"}, "drawn by a hash"
    judged(out, judge, "--limit", "6")
    assert (len(before), before < set(rows(out).prompt_id), len(set(rows(out).prompt_id))) == (3, True, 6)


def test_a_dry_run_counts_and_asks_nothing(out: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(out, judge, "--limit", "1", "--configurations", "normal")
    monkeypatch.delenv("OPENAI_API_KEY")
    done = judged(out, judge, "--dry-run")
    characters = sum(len(message["content"]) for asked in judge.asked for message in asked["messages"])
    beginning, n, told = re.split(r" with ([\d,]+) characters, about 7 runs; ", done.stdout)
    assert beginning == "j would be asked 5 questions,"
    assert 4 * characters < int(n.replace(",", "")) < 6 * characters
    assert told == "1 have a text that is known; 1 were judged before, 3 failed, 0 are not committed yet\n"
    assert (done.returncode, len(judge.asked), len(rows(out))) == (0, 1, 1)


def test_the_line_that_is_printed_reads_the_judgements_that_count(out: Path) -> None:
    with judging(fail=lambda n: completion("hm") if n % 3 == 0 else None) as judge:
        judged(out, judge, "--limit", "2")
        done = judged(out, judge)  # once more, with rows of errors
        done = judged(out, judge)
    assert rows(out).run_id.duplicated().any()
    [read] = [line for line in done.stdout.splitlines() if line.startswith("import pandas")]
    known: dict[str, Any] = {}
    exec(read, known)
    assert sorted(known["judged"].run_id) == sorted(texts(out).index)
    assert set(known["judged"].status) == {"ok"}


def interrupt(out: Path) -> Response:
    os.kill(os.getpid(), signal.SIGINT)
    return Response(hangs=True)


TAKEN_OVER = threading.Event()


def take_over(out: Path) -> Response:
    taken = json.dumps({**json.loads((out / JUDGING.file).read_text()), "token": "another"})
    for _ in range(20):  # a renewal may have read the lease just before
        (out / JUDGING.file).write_text(taken)
        time.sleep(0.03)
    TAKEN_OVER.set()
    return Response(hangs=True)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("fault", "n_failed", "told"),
    [
        (lambda out: Response(drops=True), 4, "the same command tries again"),
        (interrupt, 0, f"stopped: interrupted\n{KEPT}\n"),
        (take_over, 0, "another driver has taken over {out}: process {pid} on "),
    ],
)
def test_after_a_fault_only_the_rest_is_asked_again(out: Path, fault: Any, n_failed: int, told: str) -> None:
    with judging(fail=lambda n: fault(out) if n >= 2 else None) as judge:
        done = judged(out, judge, "--concurrency", "1", "--timeout", "60")
    assert (done.returncode, len(judge.asked)) == ((0, 2 + 4 * TRIES) if n_failed else (1, 3))
    assert told.format(out=out, pid=os.getpid()) in done.stderr
    n_texts = rows(out).groupby("status").text_hash.nunique()
    assert (n_texts["ok"], n_texts.get("error", 0)) == (2, n_failed)
    assert fault is not take_over or TAKEN_OVER.wait(20)
    (out / JUDGING.file).unlink(missing_ok=True)  # of the other driver
    with judging() as judge:
        assert judged(out, judge).returncode == 0
        assert len(judge.asked) == 4
    assert set(texts(out).index) == set(rows(out).query("status == 'ok'").run_id)


def test_a_running_sweep_is_judged_without_a_key_but_by_one_call_at_a_time(out: Path, judge: Judge) -> None:
    with hold(open_store(out), use=JUDGING):
        done = judged(out, judge)
    assert (done.returncode, judge.asked) == (2, [])
    assert done.stderr.startswith(f"error: {out} is being judged by process {os.getpid()} on ")
    assert not (out / JUDGING.file).exists()
    with hold(open_store(out)):
        assert judged(out, judge, "--no-key", "--limit", "1").returncode == 0
    assert KEY not in str(judge.headers)


def test_an_endpoint_that_only_fails_stops_it_soon(out: Path) -> None:
    for response, reason, n_asked in (
        (refusal(401, f"not {KEY}"), "1 failure in a row, the last: the endpoint refuses access", 1),
        (refusal(500, "broken"), "5 failures in a row, the last: the endpoint fails (status 500)", 5 * TRIES),
        (completion("hm"), "5 failures in a row, the last: no usable answer (Invalid JSON", 5),
    ):
        with judging(fail=lambda n, response=response: response) as judge:
            done = judged(out, judge, "--concurrency", "1")
        *_, stopped, kept = done.stderr.splitlines()
        assert stopped.startswith(f"stopped: {reason}")
        assert (done.returncode, kept, set(rows(out).status), len(judge.asked)) == (1, KEPT, {"error"}, n_asked)


def test_the_key_is_nowhere(out: Path, judge: Judge, caplog: Any, capfd: Any, monkeypatch: Any) -> None:
    caplog.set_level(0)
    key = f"{KEY}-{'0123456789abcdef' * 22}"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echoes = [completion(f"{key}?"), refusal(418, f"no {key}"), Response(body=f"{{'k': '{key}'}}".encode()), None]
    judge.fail = lambda n: echoes[n % 4]
    done = judged(out, judge, "--concurrency", "1")
    assert done.returncode == 0
    assert {headers["authorization"] for headers in judge.headers} == {f"Bearer {key}"}
    printed = capfd.readouterr()
    said = rows(out).to_csv() + caplog.text + printed.out + printed.err + done.stdout + done.stderr
    written = [said.encode(), *(path.read_bytes() for path in out.rglob("*") if path.is_file())]
    for part in (KEY[:8], "01234567", key[-8:]):  # an answer is cut within the key
        assert not any(part.encode() in text for text in written)


def test_bad_input_is_refused_in_a_line_before_anything_is_sent(out: Path, judge: Judge, monkeypatch: Any) -> None:
    refused: list[tuple[str | None, list[str], str]] = [
        *((key, [], "OPENAI_API_KEY is not set to a key alone") for key in (None, " ", "two words", "ключ")),
        (KEY, ["--key-from", KEY], "the environment variable that --key-from names is not set"),
        (KEY, ["--key", KEY], "a key on a command line can be seen by others"),
        *(
            (KEY, ["--base-url", url], "argument --base-url: must be an address such as http://localhost:8000/v1: ")
            for url in (f"me:{KEY}@h/v1", f"http://me:{KEY}/v1", "http://:80/v1", "localhost:1/v1", "http://\x1b[2J/v1")
        ),
        (KEY, ["--configurations", "unfrozen/kl/2"], "{out} has no configuration unfrozen/kl/2: did you mean unfrozen"),
        (KEY, ["--concurrency", "0"], "argument --concurrency: must be a whole number above 0, got 0"),
    ]
    for value, flags, reason in refused:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        if value:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        done = judged(out, judge, *flags)
        [line] = done.stderr.splitlines()
        assert (done.returncode, line.startswith(f"error: {reason.format(out=out)}")) == (2, True), line
    failed = write(out.parent / "failed", ("failed",))
    assert f"{failed} has no run without an error: there is nothing to judge" in judged(failed, judge).stderr
    assert (judge.asked, (out / "judgements").exists()) == ([], False)
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "eexit.studies.judging")
    monkeypatch.delattr(eexit.studies, "judging")
    assert "pip install 'eexit[judge]'" in judged(out, judge).stderr


QUESTION = question("prompt", "text")


def answer(judge: Judge, **how: Any) -> tuple[TextScores, int] | JudgeRequestError:
    """Return the judge's scores of one text, or the error in their place."""
    endpoint = JudgeClient(**{"base_url": judge.url, "key": KEY, "timeout": 5.0, "model": "j", **how})

    async def asked() -> tuple[TextScores, int]:
        async with endpoint.client:
            return await endpoint.ask(QUESTION)

    with ThreadPoolExecutor(1) as thread:  # a browser test of the same process may have left a loop running in this one
        done = thread.submit(asyncio.run, asked())
    if not isinstance(error := done.exception(), JudgeRequestError):
        return done.result()
    assert KEY not in f"{error} {error!r} {error.__cause__!r} {endpoint!r}"
    return error


def test_a_request_is_the_documented_one(judge: Judge) -> None:
    assert answer(judge, temperature=0.0) == (TextScores(**scores_of({"answer": "text"})), TOKENS)
    assert judge.headers[0]["authorization"] == f"Bearer {KEY}"
    [asked] = judge.asked
    assert (asked["model"], asked["messages"], asked["temperature"]) == ("j", QUESTION, 0.0)
    form = asked["response_format"]["json_schema"]
    assert (form["strict"], form["schema"]["required"]) == (True, list(TextScores.model_fields))
    answer(judge, key=None, response_format={"type": "json_object"})
    assert KEY not in str(judge.headers[-1])
    assert ("temperature" in judge.asked[-1], judge.asked[-1]["response_format"]) == (False, {"type": "json_object"})


def test_what_may_pass_is_tried_again_and_passes() -> None:
    for response in (refusal(429, headers={"Retry-After": "0.05"}), Response(500, b"oops"), Response(hangs=True)):
        with judging(fail=lambda n, response=response: response if n < 2 else None) as judge:
            assert not isinstance(answer(judge, timeout=0.3 if response.hangs else 5.0), JudgeRequestError)
            assert len(judge.asked) == 3


FINAL, TEXT, ELSE = (False, True), (True, False), (False, False)  # of_text, is_final
BOMB = gzip.compress(completion(scores_of({"answer": "text"})).body + b" " * 50 * MOST_BYTES)
LATE, LONG = "the endpoint did not answer within 0.3 s (--timeout)", "the endpoint's reply is longer than 1,048,576 b"
LASTING: list[tuple[Response, int, tuple[bool, bool], str]] = [
    (refusal(429, "slow down"), TRIES, ELSE, "the endpoint is asked too often, or has no quota left (status 429)"),
    (refusal(429, "wait", {"Retry-After": "86400"}), 1, ELSE, "the endpoint is asked too often"),
    (refusal(402, "pay"), 1, FINAL, "the endpoint refuses access"),
    (refusal(404, "no such model"), 1, FINAL, "the endpoint has nothing there"),
    (refusal(400, "json_schema?"), 1, TEXT, "the endpoint refuses the text, --temp"),
    (Response(body=f'{{"error": "{KEY}"}}'.encode()), 1, TEXT, "no usable answer (Field required)"),
    (Response(body=b"[" * 10**6), 1, TEXT, "no usable answer (Invalid JSON"),
    (Response(endless=b" " * 2**16), 1, ELSE, LONG),
    (Response(body=BOMB, headers={"Content-Encoding": "gzip"}), 1, ELSE, "the endpoint compresses its replies"),
    (Response(endless=b" ", pause=0.05), TRIES, ELSE, LATE),
    (Response(endless=b"x: y\r\n", pause=0.05), TRIES, ELSE, LATE),
]


@pytest.mark.parametrize(("response", "tries", "kind", "reason"), LASTING)
def test_what_lasts_is_given_up(response: Response, tries: int, kind: tuple[bool, bool], reason: str) -> None:
    """A reply is read up to a size and for a time."""
    started = time.monotonic()
    with judging(fail=lambda n: response) as judge:
        failed = answer(judge, timeout=0.3 if reason == LATE else 30.0)
    assert isinstance(failed, JudgeRequestError)
    assert str(failed).startswith(reason)
    assert (len(judge.asked), (failed.of_text, failed.is_final)) == (tries, kind)
    assert judge.headers[0]["accept-encoding"] == "identity"
    assert judge.sent < 32 * MOST_BYTES, "with what the system buffers"
    assert time.monotonic() - started < 20


def test_another_address_gets_no_text_and_a_server_that_is_not_there_is_named() -> None:
    with judging() as elsewhere, judging() as judge:
        judge.fail = lambda n: Response(308, headers={"Location": f"{elsewhere.url}/chat/completions"})
        moved = answer(judge)
        assert isinstance(moved, JudgeRequestError)
        assert (moved.is_final, str(moved).startswith("the endpoint has moved")) == (True, True)
        assert (len(judge.asked), elsewhere.asked) == (1, [])
        unreachable = [("SSL", answer(judge, base_url=judge.url.replace("http:", "https:")))]
    nowhere = judge.url.replace("127.0.0.1", "no-such-host.invalid")
    unreachable += [("Connect call failed", answer(judge)), ("[Nn]ame", answer(judge, base_url=nowhere))]
    for reason, failed in unreachable:
        assert re.match(rf"the endpoint can't be reached \(.*{reason}", str(failed))


ECHOES: list[Callable[[str], Response]] = [
    lambda said: refusal(418, said, param=said),
    lambda said: refusal(429, "slow", {"Retry-After": "86400", "X-Key": said}),
    lambda said: Response(500, said.encode()),
    lambda said: Response(body=f"<html>{said}".encode()),
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
            told.append(str(answer(judge)))
    assert len({*told, ""}) == 2, told
