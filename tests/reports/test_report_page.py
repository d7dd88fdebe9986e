"""The page as a file: what is in it, what must never be, and the sweeps that aren't whole."""

import base64
import gzip
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from synthetic_sweeps import CONFIGURATIONS, HOSTILE, LAYERS

from reports import build_report
from reports.packing import encode_log
from reports.palette import STOPS, contrast, exit_colours, ink_on


def blob(page: str, name: str) -> bytes:
    found = re.search(rf'id="blob-{name}">([^<]*)</script>', page)
    assert found, name
    return gzip.decompress(base64.b64decode(found[1]))


def report(folder) -> tuple[str, dict]:
    page = build_report(str(folder), folder / "report.html").read_text(encoding="utf-8")
    return page, json.loads(blob(page, "payload"))


def test_hostile_text_is_nowhere_in_the_markup(full):
    page, data = report(full)
    assert "owned" not in page
    assert "evil.example" not in page
    assert data["prompts"][1]["text"] == HOSTILE
    assert HOSTILE in json.loads(blob(page, "pieces"))


def test_the_page_asks_for_nothing(full):
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


def test_the_same_results_give_the_same_file(full):
    assert report(full)[0] == report(full)[0]


def test_tokens_come_back_from_the_file(full):
    page, data = report(full)
    pieces, core = json.loads(blob(page, "pieces")), blob(page, "core-0")
    run = data["prompts"][0]["runs"][1]
    n, start = run["n"], 4 * data["prompts"][0]["runs"][0]["n"]
    numbers = [core[start + i] + (core[start + n + i] << 8) + (core[start + 2 * n + i] << 16) for i in range(n)]
    ranks = list(core[start + 3 * n : start + 4 * n])
    assert [pieces[number] for number in numbers][:3] == ["The", " cat", " u2"]
    assert ranks[0] == 128 + len(LAYERS)  # the first token: final layer, not drawn
    assert ranks[1:6] == [1, 2, 3, 4, 0]
    assert len(blob(page, "detail-0")) == sum(r["n"] for r in data["prompts"][0]["runs"]) * (2 * len(LAYERS) + 6)


def test_nats_survive_packing_to_two_percent():
    values = np.geomspace(0.001, 31, 500)
    codes = encode_log(values).astype(int)
    assert np.abs(2.0 ** (-10 + (codes - 1) * 15 / 254) / values - 1).max() < 0.022
    assert encode_log(np.array([0.0, 1e-7, 1e9])).tolist() == [0, 0, 255]


def test_exit_colours_are_the_palette_and_readable():
    assert exit_colours(6) == list(STOPS)
    for n in range(1, 20):
        colours = exit_colours(n)
        assert len(set(colours)) == n
        assert colours[-1] == STOPS[-1]
        assert min(contrast(colour, ink_on(colour)) for colour in colours) >= 4.5


def test_readers_without_scripts_get_the_trade_off(full):
    page, _ = report(full)
    noscript = re.search(r"<noscript>(.*?)</noscript>", page, flags=re.S)
    assert noscript
    assert noscript[1].count("<svg") == 2
    assert "frozen_residual" in noscript[1]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("empty", {"n_prompts": 0, "configurations": [], "n_runs": 21}),
        ("partial", {"n_prompts": 1, "n_runs": 21}),
        ("all failed", {"n_prompts": 2, "fail": lambda *run: True}),
        ("one prompt", {"n_prompts": 1}),
        ("one configuration", {"n_prompts": 6, "configurations": [("unfrozen", 1.0)]}),
        ("only normal", {"n_prompts": 6, "configurations": [("normal", None)]}),
        ("no normal", {"n_prompts": 6, "configurations": CONFIGURATIONS[1:]}),
    ],
)
def test_sweeps_that_are_not_whole_still_give_a_report(make_sweep, name, arguments):
    page, data = report(make_sweep(**arguments))
    titles = {chart["key"] for chart in data["charts"]}
    assert "NaN" not in blob(page, "payload").decode()
    assert data["counts"]["failed"] == (14 if name == "all failed" else 0)
    assert titles == (set() if name in ("empty", "all failed") else titles)
    assert bool(data["paired"]["rows"]) == (name in ("partial", "one prompt"))
    intervals = [
        row["exit_rate_low"] for chart in data["charts"] if "trade" in chart["key"] for row in chart["table"]["rows"]
    ]
    assert all((low is None) == (arguments["n_prompts"] < 5) for low in intervals)


def test_generations_without_tokens_still_have_their_text(make_sweep):
    folder = make_sweep(2)
    for file in (folder / "tokens").iterdir():
        file.unlink()
    _, data = report(folder)
    run = data["prompts"][0]["runs"][0]
    assert (run["n"], run["text"][:11]) == (0, "The cat sat")


def test_findings_give_interval_and_n(full):
    finding = report(full)[1]["findings"][0]
    assert re.search(r"unfrozen@1 exits early on \d+% \[\d+%, \d+%\] of tokens", finding)
    assert "in theory" in finding
    assert "n = 6 prompts" in finding


def test_reports_need_neither_torch_nor_ray():
    code = "import sys, reports; print(*{'torch', 'ray', 'transformers', 'cluster'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_every_script_of_the_template_is_in_the_page():
    from reports.page import SCRIPTS, TEMPLATE

    assert sorted(SCRIPTS) == sorted(path.name for path in TEMPLATE.glob("*.js"))
    names = list(
        itertools.chain(*(re.findall(r"^(?:async )?function (\w+)", (TEMPLATE / s).read_text(), re.M) for s in SCRIPTS))
    )
    assert len(names) == len(set(names))
