"""`python jobs/judge.py` against a judge behind real HTTP: what lands, what is asked once, and what faults leave."""

import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai._base_client
import pandas as pd
import pytest
from commands import here
from driving import wait_until
from full_disk import left, on_a_full_disk
from judge_server import Judge, Response, completion, first, judging, refusal, scores_of
from scripted import rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.runs import Run, plan_runs
from eexit.quality.rubric import ASPECTS
from eexit.results.layout import MANIFEST, encode
from eexit.results.shard_tables import error_results
from eexit.results.store import lease
from eexit.results.store.folder import open_store
from eexit.results.store.lease import JUDGING, hold
from eexit.results.store.manifest import make_manifest
from eexit.results.store.writing_shards import land
from eexit.results.study_tables import JUDGEMENTS
from eexit.studies.judging import endpoint
from eexit.studies.judging import judge as judging_module
from eexit.studies.judging.table import by_configuration
from jobs.judge import main

KEY = "sk-THIS-IS-A-SECRET"
PROMPTS = ("one", "two", "three", "failed")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where replies are kept
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def text_of(run: Run) -> str:
    """Of unfrozen/kl/1, the text of normal."""
    return f"{run.prompt.prompt} {run.seed}" + (" é longer" if run.configuration.key.endswith("/0.5") else "")


def write(
    out: Path,
    prompts: tuple[str, ...] = PROMPTS,
    text: Callable[[Run], str] = text_of,
    land_first: int | None = None,
    ids: Callable[[int], str] = str,
    **fields: Any,
) -> Path:
    """A sweep whose texts are given; the runs of the prompt `failed` are errors."""
    config = sweep_of("m", *prompts, **{"modes": ("normal", "unfrozen"), "kl_factors": (0.5, 1.0), **fields})
    named = tuple(replace(prompt, id=ids(number)) for number, prompt in enumerate(config.prompts))
    config = config.model_copy(update={"prompts": named})
    store, runs = open_store(out), list(plan_runs(config))[:land_first]
    store.publish(MANIFEST, encode(make_manifest(config, {"name": "m", "n_layers": 30}, (5,))))
    failed = [it for it in runs if it.prompt.prompt == "failed"]
    land(store, failed, error_results(failed, config, "no"))
    done = [it for it in runs if it.prompt.prompt != "failed"]
    land(store, done, rows_of(done, config, lambda run: {"text": text(run)}))
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write(tmp_path / "out")


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judging() as judge:
        yield judge


def judged(out: Path, judge: Judge | str, *flags: str, model: str = "j") -> Any:
    url = judge if isinstance(judge, str) else judge.url
    done = here(main, out, "--base-url", url, "--model", model, *flags)
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(out: Path) -> pd.DataFrame:
    """All that landed, in the order of landing."""
    return pd.read_parquet(out / "judgements").sort_values("started", ignore_index=True, kind="stable")


def texts(out: Path) -> pd.DataFrame:
    found = pd.read_parquet(out / "generations")
    return found[found.status == "ok"].set_index("run_id")


def test_every_text_is_scored_equal_ones_once_and_nothing_twice(out: Path, judge: Judge) -> None:
    done = judged(out, judge)
    assert done.returncode == 0, done.stderr
    found, theirs = rows(out), texts(out)
    assert found.columns.tolist() == JUDGEMENTS.schema.names
    assert sorted(found.run_id) == sorted(theirs.index), "the failed runs are left out"
    for row in found.to_dict("records"):
        run = theirs.loc[row["run_id"]]
        assert {name: row[name] for name in scores_of({"answer": ""})} == scores_of({"answer": run["text"]})
        assert (row["configuration"], row["prompt_id"], row["seed"]) == (run["configuration"], run["prompt_id"], 0)
    assert (set(found.judge), set(found.status)) == ({"j"}, {"ok"})
    assert found.preferred.isna().all()
    assert len(judge.asked) == 6 == len({(quoted["prompt"], quoted["answer"]) for quoted in judge.quoted})
    assert {headers["authorization"] for headers in judge.headers} == {f"Bearer {KEY}"}
    assert "unfrozen" not in json.dumps(judge.asked)
    assert "kl" not in json.dumps(judge.quoted), "it isn't told which configuration wrote a text"
    assert "42 tokens · 6/6 questions · 0 errors · 0:00 left" in done.stderr
    assert f'pd.read_parquet("{out}/judgements")' in done.stdout
    assert "Means over n prompts, 1 seed; beneath" in " ".join(done.stdout.split())
    [line] = [line.split() for line in done.stdout.splitlines() if line.startswith(" unfrozen/kl/1")]
    means = theirs[theirs.configuration == "unfrozen/kl/1"].text.map(lambda text: scores_of({"answer": text}))
    assert line == ["unfrozen/kl/1", "3", *(f"{mean:.2f}" for mean in pd.DataFrame(list(means)).mean())]

    again = judged(out, judge)
    assert (again.returncode, len(judge.asked), len(rows(out))) == (0, 6, 9)
    assert again.stdout == done.stdout
    judged(out, judge, model="another")
    assert len(judge.asked) == 12, "another judge is asked anew"


def test_texts_of_another_part_of_the_sweep_are_known_by_what_they_say(out: Path, judge: Judge) -> None:
    judged(out, judge, "--configurations", "normal")
    assert len(judge.asked) == 3
    judged(out, judge, "--configurations", "normal", "unfrozen/kl/1")
    assert (len(judge.asked), len(rows(out))) == (3, 6)
    one, other = (its.set_index("prompt_id") for _, its in rows(out).groupby("configuration"))
    assert one[list(scores_of({"answer": ""}))].equals(other[list(scores_of({"answer": ""}))].loc[one.index])


def test_what_has_landed_of_the_first_prompts_is_judged(tmp_path: Path, judge: Judge) -> None:
    out = write(tmp_path / "out", land_first=4)  # of the second prompt, only normal
    assert judged(out, judge, "--limit", "1").returncode == 0
    assert set(texts(out).loc[rows(out).run_id].prompt) == {"one"}
    assert len(rows(out)) == 3
    judged(out, judge)
    assert Counter(texts(out).loc[rows(out).run_id].prompt) == {"one": 3, "two": 1}


def test_a_limit_judges_prompts_of_each_sort(tmp_path: Path, judge: Judge) -> None:
    out = write(tmp_path / "out", tuple(f"text {n}" for n in range(12)), ids=lambda n: f"{'ab'[n // 8]}-{n}")
    judged(out, judge, "--limit", "3")
    assert Counter(prompt_id[0] for prompt_id in set(rows(out).prompt_id)) == {"a": 2, "b": 1}
    before = set(rows(out).prompt_id)
    judged(out, judge, "--limit", "6")
    assert before < set(rows(out).prompt_id)
    assert len(set(rows(out).prompt_id)) == 6


def test_a_dry_run_counts_and_asks_nothing(out: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(out, judge, "--limit", "1")
    n_asked = len(judge.asked)
    monkeypatch.delenv("OPENAI_API_KEY")
    done = judged(out, judge, "--dry-run", "--pairwise", "--both-orders")
    lines = dict(re.split("  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["left out"] == "3 failed runs; 0 runs did not land yet"
    assert lines["judged before"] == "1 run"  # normal, which needs no comparison
    assert lines["texts"] == "8 to judge, 6 of them distinct; scores of 4 are not known"
    assert lines["comparisons"] == "3 texts with that of normal, in both orders"
    assert lines["questions"].startswith("10, with ")
    assert (done.returncode, len(judge.asked), len(rows(out))) == (0, n_asked, 3)


N_PAIRS = 24
LONG = tuple(f"prompt {n}" for n in range(N_PAIRS))


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts whose unfrozen text is longer than that of normal at every second prompt, and shorter elsewhere."""

    def text(run: Run) -> str:
        is_long = (int(run.prompt.id) % 2 == 0) == (run.configuration.mode == "unfrozen")
        return f"{run.prompt.prompt} {'at length' if is_long else ''}"

    return write(tmp_path_factory.mktemp("paired") / "out", LONG, text, kl_factors=(1.0,))


@pytest.mark.parametrize("both", [False, True])
def test_a_judge_that_goes_by_the_order_gets_about_half_or_only_ties(paired: Path, both: bool) -> None:
    flags, model = ["--both-orders"] if both else [], f"first {both}"
    with judging(prefers=first) as judge:
        done = judged(paired, judge, "--pairwise", *flags, "--concurrency", "32", model=model)
    found = rows(paired).query("judge == @model and mode == 'unfrozen'")
    counts = Counter(found.preferred)
    assert sum(counts.values()) == N_PAIRS
    if both:
        assert counts == {"tie": N_PAIRS}
    else:
        assert abs(counts["this"] - N_PAIRS / 2) < 4 * (N_PAIRS / 4) ** 0.5, "four standard errors"
    [line] = [line.split() for line in done.stdout.splitlines() if line.startswith(" unfrozen")]
    better, tie = (counts[name] / N_PAIRS for name in ("this", "tie"))
    assert line[-4:] == [f"{N_PAIRS}", f"{better:.0%}", f"{tie:.0%}", f"{better + tie / 2:.0%}"]


@pytest.mark.parametrize("both", [False, True])
def test_a_judge_that_goes_by_the_texts_is_followed_whatever_the_order(paired: Path, both: bool) -> None:
    model = f"longer {both}"
    with judging() as judge:
        judged(paired, judge, "--pairwise", *(["--both-orders"] if both else []), "--concurrency", "32", model=model)
    found = rows(paired).query("judge == @model")
    normal, others = found[found["mode"] == "normal"], found[found["mode"] == "unfrozen"]
    assert normal[["preferred", "pair_hash", "orders"]].isna().all(axis=None)
    assert others.preferred.tolist() == ["this" if int(n) % 2 == 0 else "normal" for n in others.prompt_id]
    assert set(others.orders) == {2 if both else 1}
    pairs = [quoted for quoted in judge.quoted if "first" in quoted]
    assert len(pairs) == (2 * N_PAIRS if both else N_PAIRS)
    n_long_first = sum(len(quoted["first"]) > len(quoted["second"]) for quoted in pairs)
    assert n_long_first == N_PAIRS if both else abs(n_long_first - N_PAIRS / 2) < 4 * (N_PAIRS / 4) ** 0.5


def test_comparisons_are_added_to_scores_and_a_stricter_one_to_an_easier(out: Path, judge: Judge) -> None:
    judged(out, judge)
    n_scores = len(judge.asked)
    judged(out, judge, "--pairwise")
    assert len(judge.asked) - n_scores == 3, "a text that is that of normal is a tie, unasked"
    latest = rows(out).drop_duplicates("run_id", keep="last")
    assert Counter(zip(latest.configuration, latest.preferred.fillna("-"), strict=True)) == {
        ("normal", "-"): 3, ("unfrozen/kl/0.5", "this"): 3, ("unfrozen/kl/1", "tie"): 3,
    }  # fmt: skip
    assert latest.coherence.notna().all(), "scores stand in the latest row as well"
    judged(out, judge, "--pairwise")
    judged(out, judge)
    assert len(judge.asked) - n_scores == 3
    judged(out, judge, "--pairwise", "--both-orders")
    assert len(judge.asked) - n_scores == 9
    n_rows = len(rows(out))
    judged(out, judge, "--pairwise")
    assert (len(judge.asked) - n_scores, len(rows(out))) == (9, n_rows)


def test_a_failed_comparison_leaves_the_scores_and_is_tried_again(out: Path) -> None:
    with judging() as judge:
        judged(out, judge)
    n_before = len(rows(out))
    with judging(fail=lambda n: refusal(400, "too long")) as judge:
        done = judged(out, judge, "--pairwise")
    new = rows(out)[n_before:]
    assert done.returncode == 0, "the ties are judged"
    assert Counter(new.status) == {"ok": 3, "error": 3}
    assert set(new[new.status == "error"].error) == {"the endpoint refuses it with status 400"}
    [line] = [line.split() for line in done.stdout.splitlines() if line.startswith(" unfrozen/kl/0.5")]
    assert line[1] == "3", "their scores count"
    with judging() as judge:
        assert judged(out, judge, "--pairwise").returncode == 0
        assert len(judge.asked) == 3


def test_the_lines_that_are_printed_give_the_numbers_of_the_table(tmp_path: Path) -> None:
    out = write(tmp_path / "out", LONG[:8], seeds=(0, 1))
    with judging(fail=lambda n: completion("hm") if n % 3 == 0 else None, prefers=first) as judge:
        judged(out, judge, "--pairwise", model="other")
        judged(out, judge, "--limit", "5")
        done = judged(out, judge, "--pairwise")  # once more, with comparisons, and rows of errors
    assert rows(out).query("judge == 'j'").run_id.duplicated().any()
    assert (rows(out).status == "error").any()
    read, *tables = [line for line in done.stdout.splitlines() if line.startswith(("import pandas", "judged."))]
    known: dict[str, Any] = {}
    exec(read, known)
    scores, preferred = (eval(line, known).loc["j"].droplevel("rubric") for line in tables)
    for key, line in lines_of(done.stdout, "normal", "unfrozen/kl/0.5", "unfrozen/kl/1").items():
        scored = known["judged"].query("judge == 'j' and configuration == @key and coherence.notna()")
        assert line[:5] == [f"{scored.prompt_id.nunique()}", *(f"{mean:.2f}" for mean in scores.loc[key])]
        if key != "normal":
            shares = preferred.loc[key]
            beats, tie = shares.get("this", 0), shares.get("tie", 0)
            assert line[6:] == [f"{share:.0%}" for share in (beats, tie, beats + tie / 2)]


def lines_of(said: str, *keys: str) -> dict[str, list[str]]:
    """What the lines of a table say of each key."""
    return {key: line.split()[1:] for key in keys for line in said.splitlines() if line.split()[:1] == [key]}


def test_a_server_that_dies_half_way_leaves_what_it_judged_and_only_the_rest_is_asked_again(out: Path) -> None:
    with judging(fail=lambda n: Response(drops=True) if n >= 2 else None) as judge:
        done = judged(out, judge, "--concurrency", "1")
    assert (done.returncode, len(judge.asked)) == (0, 2 + 4 * endpoint.TRIES)
    found = rows(out)
    assert found[found.status == "ok"].text_hash.nunique() == 2
    assert found[found.status == "error"].text_hash.nunique() == 4
    assert all(found[found.status == "error"].error.str.startswith("the endpoint can't be reached ("))
    assert "the same command tries again" in done.stderr
    with judging() as judge:
        assert judged(out, judge).returncode == 0
        assert len(judge.asked) == 4
    assert set(texts(out).index) == set(rows(out).query("status == 'ok'").run_id)


@pytest.mark.usefixtures("interruptible")
def test_nothing_is_lost_when_it_is_interrupted(out: Path) -> None:
    def interrupt(number: int) -> Response | None:
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return Response(hangs=True) if number >= 4 else None

    with judging(fail=interrupt) as judge:
        done = judged(out, judge, "--concurrency", "1", "--timeout", "10")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "stopped: interrupted",
        "what was judged stays in judgements: the same command goes on from there",
    ]
    kept = rows(out)
    assert set(kept.status) == {"ok"}
    assert kept.text_hash.nunique() == 4
    with judging() as judge:
        assert judged(out, judge).returncode == 0
        assert len(judge.asked) == 2


def test_on_a_full_disk_it_stops_in_a_line_and_the_same_command_asks_again(out: Path, judge: Judge) -> None:
    before = left(out)
    done = on_a_full_disk(4096, main, out, "--base-url", judge.url, "--model", "j", "--quiet")
    assert done.returncode == 1
    stopped, kept = done.stderr.splitlines()
    assert stopped.startswith("stopped: ")
    assert "File too large" in stopped
    assert kept == "what was judged stays in judgements: the same command goes on from there"
    assert [name for name in left(out) if name not in before] in ([], ["judgements"])
    assert judged(out, judge).returncode == 0
    assert len(rows(out)) == 9


def test_a_second_call_at_the_same_time_is_refused_and_asks_nothing(out: Path, judge: Judge) -> None:
    with hold(open_store(out), use=JUDGING):
        done = judged(out, judge)
    assert (done.returncode, judge.asked) == (2, [])
    refusal = (
        rf"error: {out} is being judged by process {os.getpid()} on .*, since .*, which is running: wait for it, .*"
    )
    assert re.fullmatch(refusal, done.stderr.strip())
    assert not (out / JUDGING.file).exists()


def test_a_sweep_that_is_running_can_be_judged(out: Path, judge: Judge) -> None:
    with hold(open_store(out)):
        assert judged(out, judge).returncode == 0
        with pytest.raises(UsageError, match="is in use by"), hold(open_store(out)):
            pass


def test_a_call_whose_lease_is_taken_over_stops_and_keeps_what_it_has(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_RENEWALS", 0.05)

    def take_over(number: int) -> Response | None:
        if number == 2:
            taken = json.dumps({**json.loads((out / JUDGING.file).read_text()), "token": "another"})
            for _ in range(20):  # a renewal may have read the lease just before
                (out / JUDGING.file).write_text(taken)
                time.sleep(0.03)
        return Response(hangs=True) if number >= 2 else None

    with judging(fail=take_over) as judge:
        done = judged(out, judge, "--concurrency", "1", "--timeout", "60")
    assert done.returncode == 1
    assert f"stopped: another driver has taken over {out}: process {os.getpid()} on " in done.stderr
    assert rows(out).text_hash.nunique() == 2


def test_it_lands_as_it_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_module, "SECONDS_BETWEEN_FILES", 0.0)
    landed: list[int] = []  # files, before each question is answered

    def files() -> int:
        return len(list(out.glob("judgements/*.parquet")))

    def look(number: int) -> Response | None:
        wait_until(lambda: files() >= len(landed), seconds=20)  # while a question is open, the answers so far land
        landed.append(files())
        return None

    with judging(fail=look) as judge:
        assert judged(out, judge, "--concurrency", "1").returncode == 0
    assert landed == list(range(6))


STOPPING: list[tuple[Response, str, int]] = [
    (
        refusal(429, "pay", type="insufficient_quota"),
        "stopped: the endpoint's quota is used up (status 429)",
        endpoint.TRIES,
    ),
    (refusal(401, f"not {KEY}"), "stopped: the endpoint lets nobody in without a key (status 401): is the key in", 1),
    (
        refusal(500, "broken"),
        "stopped: 5 failures in a row, the last: the endpoint fails with status 500",
        5 * endpoint.TRIES,
    ),
    (refusal(400, "json_schema?"), "stopped: the endpoint refuses the request (status 400): another --response", 1),
]


@pytest.mark.parametrize(("response", "reason", "n_asked"), STOPPING)
def test_an_endpoint_that_only_fails_stops_it_soon(out: Path, response: Response, reason: str, n_asked: int) -> None:
    with judging(fail=lambda n: response) as judge:
        done = judged(out, judge, "--concurrency", "1")
    assert done.returncode == 1
    said, stopped = done.stderr.splitlines()[-3:-1]
    assert stopped.startswith(reason)
    assert json.loads(response.body)["error"]["message"] in kept_in(said).read_text()
    assert done.stderr.splitlines()[-1] == "what was judged stays in judgements: the same command goes on from there"
    found = rows(out)
    assert set(found.status) == {"error"}
    assert len(judge.asked) == n_asked


def test_texts_that_the_judge_makes_nonsense_of_are_errors_and_do_not_stop_it(out: Path) -> None:
    bad = {0: completion("five of five"), 1: completion({**scores_of({"answer": ""}), "clarity": 6})}
    with judging(fail=lambda n: bad.get(n) or (Response(body=b"<html>") if n == 2 else None)) as judge:
        done = judged(out, judge, "--concurrency", "1")
    assert (done.returncode, len(judge.asked)) == (0, 6)
    found = rows(out)
    reasons = found[found.status == "error"].error.unique()
    assert [re.split(r"[(:;]", reason)[1] for reason in reasons] == ["Invalid JSON", "clarity", "Invalid JSON"]
    assert found[found.status == "error"][list(scores_of({"answer": ""}))].isna().all(axis=None)


def test_a_judge_that_only_talks_nonsense_stops_it(paired: Path) -> None:
    with judging(fail=lambda n: completion("hm")) as judge:
        done = judged(paired, judge, "--concurrency", "1", model="silly")
    assert done.returncode == 1
    assert "stopped: none of 10 texts was judged, the last: no usable answer (Invalid JSON" in done.stderr


def test_the_key_is_nowhere(
    out: Path, judge: Judge, caplog: pytest.LogCaptureFixture, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(0)
    key = f"{KEY}-{'0123456789abcdef' * 22}"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echoes = [completion(f"{key}?"), refusal(418, f"no {key}"), Response(body=f"{{'k': '{key}'}}".encode()), None]
    judge.fail = lambda n: echoes[n % 4]
    done = judged(out, judge, "--pairwise", "--concurrency", "1")
    assert done.returncode == 0
    assert {headers["authorization"] for headers in judge.headers} == {f"Bearer {key}"}
    assert rows(out).error.notna().sum() >= 3
    parts = (KEY[:8], "01234567", key[-8:])  # an answer is cut within the key
    for path in out.rglob("*"):
        assert path.is_dir() or not any(part.encode() in path.read_bytes() for part in parts)
    printed = capfd.readouterr()
    said = rows(out).to_csv() + caplog.text + printed.out + printed.err + done.stdout + done.stderr
    assert not any(part in said for part in parts)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("what the endpoint replied")]
    assert key in kept_in(line).read_text()


def kept_in(line: str) -> Path:
    """The file of what an endpoint replied, of which this line tells."""
    found = re.fullmatch(r"what the endpoint replied is in (\S+), which only you can read: it may hold your key", line)
    assert found, line
    return Path(found[1])


@pytest.mark.parametrize(
    ("value", "flags", "reason"),
    [
        (None, [], "OPENAI_API_KEY is not set: set it to the endpoint's key, or say --no-key if it needs none"),
        (" ", [], "OPENAI_API_KEY is not set"),
        ("two words", [], "OPENAI_API_KEY holds characters that no key has"),
        ("ключ", [], "OPENAI_API_KEY holds characters that no key has"),
        (KEY, ["--key-from", KEY], "the environment variable that --key-from names is not set"),
        (KEY, ["--key", KEY], "a key on a command line can be seen by others: set OPENAI_API_KEY, or name yours"),
        (KEY, ["--base-url", f"me:{KEY}@h/v1"], "--base-url must begin with http:// or https://, got h/v1"),
        (KEY, ["--base-url", "http://[::1"], "--base-url http://… is no address: it needs a host, and a port"),
        (KEY, ["--base-url", "http://h:99999/v1"], "--base-url http://h:99999/v1 is no address: it needs a host"),
        (KEY, ["--base-url", f"http://me:{KEY}/v1"], "--base-url http://…/v1 is no address: it needs a host"),
        (KEY, ["--base-url", "http://:80/v1"], "--base-url http://:80/v1 is no address: it needs a host"),
        (KEY, ["--base-url", "http://a..b/v1"], "--base-url http://a..b/v1 is no address: it needs a host"),
        (KEY, ["--base-url", "localhost:1/v1"], "--base-url must begin with http:// or https://, got localhost:1/v1"),
        (KEY, ["--configurations", "unfrozen/kl/2"], "{out} has no configuration unfrozen/kl/2: did you mean unfrozen"),
        (KEY, ["--both-orders"], "--both-orders is about comparisons: add --pairwise"),
        (KEY, ["--concurrency", "0"], "argument --concurrency: must be a whole number above 0, got 0"),
        (KEY, ["--timeout", "-1"], "argument --timeout: must be seconds above 0, got -1"),
        (KEY, ["--temperature", "warm"], "argument --temperature: must be a number, got warm"),
        (KEY, ["--response-format", "xml"], "argument --response-format: invalid choice"),
    ],
)
def test_bad_input_is_refused_in_a_line_before_anything_is_sent(
    out: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, value: str | None, flags: list[str], reason: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    done = judged(out, judge, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {reason.format(out=out)}")
    assert len(done.stderr.splitlines()) == 1
    assert (judge.asked, (out / "judgements").exists()) == ([], False)


def test_results_that_can_not_be_judged_are_refused(tmp_path: Path, judge: Judge) -> None:
    assert "holds no sweep.json" in judged(tmp_path / "nowhere", judge).stderr
    out = write(tmp_path / "failed", ("failed",))
    assert judged(out, judge).stderr == f"error: {out} has no run without an error: there is nothing to judge\n"
    out = write(tmp_path / "unfrozen", ("one",), modes=("unfrozen",))
    done = judged(out, judge, "--pairwise")
    assert done.stderr == f"error: {out} has no configuration normal that --pairwise could compare with: leave it out\n"
    path, *_ = (out / "generations").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} is damaged" in judged(out, judge).stderr
    assert judge.asked == []


def test_without_the_client_it_says_what_to_install(out: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    done = judged(out, judge)
    assert (done.returncode, done.stderr) == (
        2,
        "error: judging needs the package openai: pip install 'eexit[judge]'\n",
    )


def test_a_local_endpoint_needs_no_key_and_gets_none(out: Path, judge: Judge) -> None:
    assert judged(out, judge, "--no-key", "--limit", "1").returncode == 0
    assert KEY not in str(judge.headers)


def test_means_are_over_prompts_and_seeds_of_a_prompt_are_averaged_first() -> None:
    aspects = dict.fromkeys(scores_of({"answer": ""}), 1)
    rows = [
        {"configuration": "a", "prompt_id": prompt, "status": "ok", **aspects, "clarity": score, "preferred": preferred}
        for prompt, score, preferred in [
            ("p", 5, "this"), ("p", 5, "this"), ("p", 5, "normal"), ("p", 5, "tie"), ("q", 1, "this"), ("r", 3, None)
        ]
    ]  # fmt: skip
    rows.append({**rows[0], "prompt_id": "s", "status": "error"})
    found = by_configuration(rows, ["a", "b"])
    its, nothing = found["a"], found["b"]
    assert math.isnan(its["clarity"].low), "three prompts are too few for an interval"
    assert (its["clarity"].n, its["clarity"].mean, its["win_rate"].n) == (3, 3.0, 2)
    assert [its[name].mean for name in ("better", "tie", "win_rate")] == [0.75, 0.125, 0.8125]
    assert nothing["clarity"].n == nothing["win_rate"].n == 0


def test_intervals_do_not_depend_on_the_order_in_which_judgements_landed() -> None:
    rows = [
        {"configuration": "a", "prompt_id": str(prompt), "seed": 0, "status": "ok", "preferred": None}
        | dict.fromkeys(ASPECTS, 1 + prompt % 5)
        for prompt in range(9)
    ]
    assert str(by_configuration(rows, ["a"])) == str(by_configuration(rows[::-1], ["a"]))
