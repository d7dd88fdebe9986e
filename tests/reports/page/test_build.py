"""The page as a file: its content, what it must never contain, and pages of incomplete sweeps."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_content import blob
from report_fixtures import MakeSweep
from synthetic_sweeps import (
    CONFIGURATIONS,
    HOSTILE,
    LAYERS,
    NORMAL_ALONE,
    UNUSUAL,
    run_rows,
    write_manifest,
    write_runs,
    write_sweep,
)

from eexit.output.palette import STOPS, contrast, exit_colours, ink_on
from eexit.plan.configuration import EarlyExit
from reports import build_report
from reports.page.build import split_blobs
from reports.page.pack_tokens import PackedTokens, encode_log, pack
from reports.read.sweep import read_sweep
from reports.shared.number_format import with_interval
from reports.shared.per_configuration import per_configuration


def columns_of(page: str, data: dict[str, Any], kind: str) -> dict[str, np.ndarray]:
    """Return the columns of a kind of the first prompt, numbers × tokens, from bytes that are stored apart."""
    content, found, start = np.frombuffer(blob(page, f"{kind}-0"), np.uint8), {}, 0
    n = sum(run["n"] for run in data["prompts"][0]["runs"])
    for name, dtype, width in data["kinds"][kind]:
        size = np.dtype(dtype).itemsize
        planes = content[start : start + n * width * size].reshape(size, -1)
        found[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(width, n)
        start += planes.size
    assert start == len(content)
    return found


@cache
def report(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / "report.html"
    page = (path if path.exists() else build_report(str(folder), path)).read_text(encoding="utf-8")
    return page, json.loads(blob(page, "payload"))


def test_hostile_text_is_nowhere_in_the_markup(full: Path) -> None:
    page, data = report(full)
    assert "owned" not in page
    assert "evil.example" not in page
    assert data["prompts"][1]["text"] == HOSTILE
    assert HOSTILE in json.loads(blob(page, "pieces"))


def test_the_page_asks_for_nothing(full: Path) -> None:
    page, _ = report(full)
    markup = re.sub(r'<script type="application/gzip;base64".*?</script>', "", page, flags=re.S)
    assert set(re.findall(r"https?://[^\s\"'<>]+", markup)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(link|img|iframe|script[^>]*\ssrc=)", markup)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]


def test_the_same_results_give_the_same_file(full: Path, tmp_path: Path) -> None:
    assert report(full)[0] == build_report(str(full), tmp_path / "report.html").read_text(encoding="utf-8")


def test_tokens_come_back_from_the_file(full: Path) -> None:
    page, data = report(full)
    pieces, core = json.loads(blob(page, "pieces")), columns_of(page, data, "core")
    n = [run["n"] for run in data["prompts"][0]["runs"]]
    assert [run["undrawn"] for run in data["prompts"][0]["runs"]] == [1] * len(n)
    assert (core["exit"][0, n[0] : n[0] + 6] >> 2).tolist() == [len(LAYERS), 1, 2, 3, 4, 0]
    assert [pieces[number] for number in core["piece"][0, n[0] :][:3]] == ["The", " cat", " u2"]
    assert columns_of(page, data, "kl")["kl"].shape == (len(LAYERS), sum(n))


def test_which_tokens_disagree_with_full_depth_comes_back_from_the_file(full: Path) -> None:
    page, data = report(full)
    lengths = [run["n"] for run in data["prompts"][0]["runs"]]
    expected = [i > 0 and i % 3 == 0 for length in lengths for i in range(length)]  # the first is not decided
    assert (columns_of(page, data, "core")["exit"][0] & 1).tolist() == expected
    assert data["flags"] == {"disagrees": True, "drafted": False}


def test_what_a_rule_saw_comes_back_from_the_file_once(tmp_path: Path) -> None:
    """Exit scores have three digits, and are NaN where there is none. Scores that are the KL are stored once."""
    own = EarlyExit("unfrozen", "similarity", 0.95).columns
    seen = [None, [0.9375, -0.25, None, None, None], [0.5, 3.140625, 0.0, 1.0, 70.0]]
    generations, tokens = [], []
    for name, columns in (("kl", {}), ("own", own)):
        row, rows = run_rows("0", "?", "unfrozen", 1.0, ["The", " cat", " sat"])
        generations.append(row | columns | {"run_id": name})
        for token, its in zip(rows, seen, strict=True):
            evidence = its if columns else its and token["kl"]
            tokens.append(token | columns | {"run_id": name, "exit_score": evidence})
    page, data = report(write_sweep(tmp_path / "s", generations, tokens))
    assert {c["key"]: c["saw"] for c in data["configurations"]} == {
        "unfrozen/kl/1": "kl",
        "unfrozen/similarity/0.95": "exit_score",
    }
    decoded = columns_of(page, data, "exit_score")["saw"].T
    expected = np.array([[np.nan] * 5 if its is None else its for its in seen], dtype=float)
    np.testing.assert_array_equal(decoded, np.concatenate([np.full((3, 5), np.nan), expected]))
    assert not any(
        c["saw"]
        for c in report(write_sweep(tmp_path / "t", generations[:1], tokens_without(tokens)))[1]["configurations"]
    )


def tokens_without(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first run's tokens without exit scores, as of a rule that has none."""
    return [token | {"exit_score": None} for token in tokens[:3]]


def test_nats_survive_packing_to_five_percent() -> None:
    values = np.geomspace(0.001, 63, 500)
    codes = encode_log(values).astype(int)
    assert np.abs(2.0 ** (-10 + (codes - 1) * 16 / 126) / values - 1).max() < 0.046
    assert encode_log(np.array([0.0, 1e-7, 1e9])).tolist() == [0, 0, 127]


def test_the_likeliest_tokens_are_in_the_file(tmp_path: Path) -> None:
    row, rows = run_rows("0", "?", "unfrozen", 1.0, ["The", " cat", " sat"])
    likely = [[[40 + rank, 7, 8] for rank in range(6)], None, [[40 + rank, 7, 8] for rank in range(6)]]
    for token, ids in zip(rows, likely, strict=True):
        token["top_token_ids"] = ids
        token["top_tokens"] = None if ids is None else [[f"t{i}" for i in layer] for layer in ids]
        token["top_prob"] = None if ids is None else [[0.6, 0.2, 0.1]] * 6
    page, data = report(write_sweep(tmp_path / "s", [row], rows))
    pieces, top = json.loads(blob(page, "pieces")), columns_of(page, data, "top")
    assert data["top"] == 3
    said = [pieces[number - 1] for number in top["top"][:, 0]]
    assert said == [f"t{i}" for rank in range(6) for i in (40 + rank, 7, 8)]
    assert top["top"][:, 1].tolist() == [0] * 18
    assert top["top_prob"][0].tolist() == [153, 0, 153]
    # Positions 0 and 2 are token 7, whose text is known now.
    assert pieces[columns_of(page, data, "more")["said"][0, 0] - 1] == "t7"


def test_a_large_page_leaves_tokens_beside_it(full: Path, beside: Path, tmp_path: Path) -> None:
    shutil.copytree(beside.parent, tmp_path, dirs_exist_ok=True)
    small, sides = tmp_path / beside.name, tmp_path / "r.data"
    assert sorted(path.name for path in sides.iterdir()) == [f"prompt-{number}.js" for number in range(6)]
    small_size = small.stat().st_size
    whole = build_report(str(full), small)
    assert not list(sides.glob("*.js"))
    assert small_size < whole.stat().st_size
    assert "'nonce-" not in whole.read_text()


def packed_of(folder: Path) -> PackedTokens:
    """Return the tokens of all prompts of a sweep, as on its page."""
    sweep = read_sweep(str(folder))
    return pack(sweep, sweep.generations, list(sweep.prompts))


def test_the_bulkiest_kinds_leave_first(full: Path) -> None:
    packed = packed_of(full)
    sizes = {kind: sum(map(len, blobs)) for kind, blobs in packed.blobs.items()}
    room = len(packed.pieces) + sizes["core"] + sizes["kl"] + sizes["prob"]
    assert list(split_blobs(packed, room)[1]) == ["more"]
    assert list(split_blobs(packed, room - 1)[1]) == ["more", "prob"]
    assert list(split_blobs(packed, room + sizes["more"])[1]) == []


def test_the_core_stays_within_two_bytes_per_token(tmp_path: Path) -> None:
    """The texts' words are as frequent as a language's."""
    draw = np.random.default_rng(0)
    runs = [
        run_rows(str(prompt), "?", mode, k, [f" word{number}" for number in draw.zipf(1.5, 400) % 500])
        for prompt in range(4)
        for mode, k in CONFIGURATIONS
    ]
    packed = packed_of(write_runs(tmp_path / "s", runs))
    size = {kind: sum(map(len, blobs)) for kind, blobs in packed.blobs.items()}
    core = size["core"] + len(packed.pieces)
    assert core <= 2 * sum(packed.n)
    assert core + size["kl"] <= 9 * sum(packed.n), "with the KL of each layer"


def test_a_report_of_some_prompts_says_what_it_holds(some: Path) -> None:
    page = some.read_text(encoding="utf-8")
    data = json.loads(blob(page, "payload"))
    assert [prompt["id"] for prompt in data["prompts"]] == ["2", "4"]
    assert data["counts"]["prompts"] == 6
    assert data["failures"][0]["prompt"] == "2"
    assert {row["n"] for row in data["charts"][0]["table"]["rows"]} == {5, 6}
    assert HOSTILE not in json.loads(blob(page, "pieces"))


def test_exit_colours_are_the_palette_and_readable() -> None:
    assert exit_colours(6) == list(STOPS)
    for n in range(1, 20):
        colours = exit_colours(n)
        assert len(set(colours)) == n
        assert colours[-1] == STOPS[-1]
        assert min(contrast(colour, ink_on(colour)) for colour in colours) >= 4.5


@pytest.mark.parametrize("name", UNUSUAL)
def test_sweeps_that_are_not_whole_still_give_a_report(unusual: Callable[[str], Path], name: str) -> None:
    page = unusual(name).read_text(encoding="utf-8")
    data = json.loads(blob(page, "payload"))
    titles = {chart["key"] for chart in data["charts"]}
    assert "NaN" not in blob(page, "payload").decode()
    assert data["counts"]["failed"] == (14 if name == "all failed" else 0)
    assert titles == (set() if name in ("empty", "all failed") else titles)
    assert bool(data["beside"]) == (name in ("partial", "one prompt", "no normal"))
    intervals = [
        row["exit_rate_low"] for chart in data["charts"] if "trade" in chart["key"] for row in chart["table"]["rows"]
    ]
    assert all((low is None) == (UNUSUAL[name]["n_prompts"] < 5) for low in intervals)


@pytest.fixture(scope="module")
def two(make_sweep: MakeSweep) -> Path:
    """Return a sweep of two prompts."""
    return make_sweep(2)


def test_generations_without_tokens_still_have_their_text(make_sweep: MakeSweep) -> None:
    folder = make_sweep(2, NORMAL_ALONE)
    for file in (folder / "tokens").iterdir():
        file.unlink()
    _, data = report(folder)
    run = data["prompts"][0]["runs"][0]
    assert (run["n"], run["text"][:11]) == (0, "The cat sat")


def test_where_tokens_are_sampled_disagreement_says_what_it_means(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "sampled", ignore=shutil.ignore_patterns("report.html"))
    about = json.loads((folder / "sweep.json").read_text())
    about["config"]["temperature"] = 0.7
    write_manifest(folder, about)
    data = report(folder)[1]
    said = "so that normal disagrees too."
    assert {each["y"] for each in data["trade"]["variants"] if said in each["note"]} == {"Disagreement"}
    assert said not in json.dumps(report(two)[1])


def test_what_a_mode_does_and_what_a_number_does_not_prove_is_said(full: Path) -> None:
    data = report(full)[1]
    assert data["modes"].keys() == {"normal", "unfrozen", "frozen_residual"}
    notes = {variant["y"]: variant["note"] for variant in data["trade"]["variants"]}
    assert "no proof of quality" in notes["Perplexity"]
    assert "no point can be higher than the texts are long" in notes["Fidelity"]


@pytest.mark.parametrize(("first", "kind"), [(3, "log"), (30, "linear")])
def test_a_logarithmic_axis_is_said_to_be_one(tmp_path: Path, first: int, kind: str) -> None:
    runs = [
        run_rows(str(prompt), "?", mode, k, ["a"], tokens_until_difference=until)
        for prompt in range(2)
        for mode, k, until in (("normal", None, 100), ("unfrozen", 1.0, first))
    ]
    folder = write_runs(tmp_path / "s", runs)
    (variant,) = (each for each in report(folder)[1]["trade"]["variants"] if each["y"] == "Fidelity")
    assert ("The axis is logarithmic." in variant["note"]) == (kind == "log")
    channels = [layer["encoding"].get("y", {}) for layer in variant["spec"]["layer"]]
    assert {channel["scale"]["type"] for channel in channels if "scale" in channel} == {kind}


def test_every_chart_gives_n_and_what_its_intervals_are(full: Path) -> None:
    captions = {chart["key"]: chart["caption"] for chart in report(full)[1]["charts"]}
    assert len(captions) == 4
    for caption in captions.values():
        assert "95% intervals over prompts; n = " in caption
    assert captions["mix"].endswith("n = 5 to 6 prompts.")


def test_few_prompts_have_n_and_no_intervals(two: Path) -> None:
    data = report(two)[1]
    assert all("intervals" not in chart["caption"] for chart in data["charts"])
    assert all("n = 2 prompts." in chart["caption"] for chart in data["charts"])


def test_a_finding_says_where_a_number_rests_on_fewer_prompts(make_sweep: MakeSweep) -> None:
    row = per_configuration(read_sweep(str(make_sweep(6)))).iloc[1].to_dict()
    assert with_interval(row, "equal_share") == "50.0% [50.0%, 50.0%]"
    assert with_interval(row | {"equal_share_n": 5}, "equal_share") == "50.0% [50.0%, 50.0%] (n = 5)"


def test_every_script_of_the_template_is_in_the_page() -> None:
    from reports.page.build import SCRIPTS, TEMPLATE

    assert sorted(SCRIPTS) == sorted(path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*.js"))
    names = list(
        itertools.chain(*(re.findall(r"^(?:async )?function (\w+)", (TEMPLATE / s).read_text(), re.M) for s in SCRIPTS))
    )
    assert len(names) == len(set(names))
