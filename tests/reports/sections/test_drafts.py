"""The section on drafts: acceptance, speed, and whether any draft beats plain decoding."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_fixtures import Visit, all_drawn, ink_of
from synthetic_sweeps import add_timings, shard, swept, write_shard

from eexit.plan.configuration import Configuration, Draft, EarlyExit, HFGenerate, NoExit
from eexit.quality.estimates import estimate_ratios
from eexit.results.tables import GENERATIONS
from reports.page.build import render
from reports.page.payload import payload
from reports.read.sweep import Sweep, read_sweep
from reports.sections.drafts import DraftTable, draft_section, drafted

PAIRS = [Draft(layer, n) for layer in (10, 20) for n in (2, 10, 20)]  # in the order of the section
KEYS = [f"draft/{draft}" for draft in PAIRS]
FIXED = EarlyExit("unfrozen", "fixed", 10.0)
NORMAL, GENERATE, EARLY = NoExit(), HFGenerate(), HFGenerate(10)


def counts(draft: Draft, prompt: int) -> dict[str, float]:
    """Return ten drafted tokens per prompt, and a pass per four decided tokens, of which later prompts have more."""
    accepted, decided = 2 + prompt % 3 + draft.layer // 10, 4 * (prompt + 2)
    return {
        "drafted": 10, "accepted": accepted, "acceptance": accepted / 10, "acceptance_per_token": 0.5 + prompt / 20,
        "passes": prompt + 2, "tokens_per_pass": 4.0, "layer_calls": 50, "expected_time": 1 / (1 + prompt / 10),
        "mean_depth": 1.0, "exit_rate": 0.0, "disagreement": 0.0, "equal_share": 1.0, "lcs_share": 1.0,
        "macs_full": 30.0 * decided, "macs_required": 30.0 * decided, "macs_executed": 50.0 * decided,
    }  # fmt: skip


def drafting(folder: Path, n_prompts: int = 6, exits: bool = True, pairs: Sequence[Draft] = PAIRS) -> Path:
    """Return `normal`, an online rule if there are `exits`, and the drafts, the last of which come first."""

    def columns(its: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        if isinstance(its, Draft):
            return counts(its, prompt)
        full = {"macs_full": 100.0, "macs_required": 100.0, "macs_executed": 100.0}
        return full | ({"macs_required": 50.0, "macs_executed": 80.0} if its == FIXED else {})

    def of_token(its: Configuration, token: Mapping[str, Any]) -> dict[str, Any]:
        return {"drafted": isinstance(its, Draft) and token["position"] % 2 == 1}

    grid: list[Configuration] = [NoExit(), *([FIXED] if exits else []), *reversed(pairs)]
    return swept(folder, grid, n_prompts, columns=columns, of_token=of_token)


def time(folder: Path, seconds: Mapping[Any, Sequence[float]], batch: int = 1, call: int = 1) -> None:
    def columns(its: Configuration | HFGenerate) -> dict[str, int]:
        return {"drafted": 10, "accepted": 5} if isinstance(its, Draft) else {}

    add_timings(folder, seconds, call, batch, columns=columns)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drafting(tmp_path_factory.mktemp("drafts") / "s")


@pytest.fixture
def timed(bare: Path, tmp_path: Path) -> Callable[..., Sweep]:
    """Return timed(seconds) → the sweep with these seconds at batch size 1, in each round."""

    def timed(seconds: Mapping[Any, float], rounds: int = 6, batches: Sequence[int] = (1,), calls: int = 1) -> Sweep:
        folder = tmp_path / "s"
        shutil.copytree(bare, folder)
        slow = np.linspace(1.0, 2.0, rounds)  # rounds differ: only the same round may be compared
        for batch, call in product(batches, range(1, calls + 1)):
            time(folder, {key: list(value * slow) for key, value in seconds.items()}, batch, call)
        return read_sweep(str(folder))

    return timed


def known(sweep: Sweep) -> DraftTable:
    found = drafted(sweep)
    assert found
    return found


def test_drafts_are_read_and_put_in_order(bare: Path) -> None:
    sweep = read_sweep(str(bare))
    assert [c for c in sweep.configurations if isinstance(c, Draft)] == PAIRS[::-1], "as in sweep.json"
    without = replace(sweep, about=sweep.about | {"configurations": []})
    assert known(without).drafts["configuration"].tolist() == KEYS
    assert (known(sweep).layers, known(sweep).lengths) == ([10, 20], ["2", "10", "20"])


def test_no_draft_is_told_of_as_an_exit(timed: Callable[..., Sweep]) -> None:
    sweep = timed({NORMAL: 1.0, GENERATE: 1.2, FIXED: 0.9, **dict.fromkeys(PAIRS, 1.1)})
    data, _ = payload(sweep, "")
    charts = {chart["key"]: chart for chart in [data["trade"], *data["charts"]]}
    assert {"quality", "mix", "depth"} <= charts.keys()
    for chart in charts.values():
        assert not {row["configuration"] for row in chart["table"]["rows"]} & set(KEYS), chart["key"]
    assert set(KEYS) <= {configuration["key"] for configuration in data["configurations"]}


def test_a_sweep_of_drafts_alone_says_nothing_of_exits(tmp_path: Path) -> None:
    folder = drafting(tmp_path / "s", n_prompts=1, exits=False)
    time(folder, {NORMAL: [1.0], GENERATE: [1.0], PAIRS[0]: [1.0]})
    data, _ = payload(read_sweep(str(folder)), "")
    assert data["charts"] == []
    assert data["drafts"]["charts"]


def test_acceptance_is_a_ratio_of_sums_with_an_interval_over_prompts(bare: Path) -> None:
    rows = known(read_sweep(str(bare))).rows.set_index("configuration")
    accepted = np.array([[2.0 + prompt % 3 + 1] for prompt in range(6)])
    (share,) = estimate_ratios(accepted, np.full((6, 1), 10.0))
    row = rows.loc["draft/10:2"]
    assert row["acceptance"] == pytest.approx(accepted.sum() / 60)
    assert [row["acceptance_low"], row["acceptance_high"]] == pytest.approx([share.low, share.high])
    # The expected time is a ratio of sums of costs, so long texts, which have the larger one here, count more.
    decided = np.array([4.0 * (prompt + 2) for prompt in range(6)])
    expected = (decided / [1.0 + prompt / 10 for prompt in range(6)]).sum() / decided.sum()
    assert row["expected"] == pytest.approx(expected)
    assert expected < 0.8
    assert row["tokens_per_pass"] == pytest.approx(4)
    assert row["acceptance_per_token"] == pytest.approx(0.5 + np.mean(range(6)) / 20)


def test_nothing_drafted_is_no_acceptance(tmp_path: Path) -> None:
    folder = drafting(tmp_path / "s", n_prompts=1, exits=False, pairs=PAIRS[:1])
    generations, tokens = (pq.read_table(folder / name / shard(0)) for name in ("generations", "tokens"))
    rows = generations.to_pylist()
    rows[-1] |= {"drafted": 0, "accepted": 0, "acceptance": None, "acceptance_per_token": None}
    write_shard(folder, 0, pa.Table.from_pylist(rows, schema=GENERATIONS), tokens)
    found = draft_section(read_sweep(str(folder)))
    assert found
    assert [chart["key"] for chart in found["charts"]] == ["draft-time"]
    assert "nan" not in found["charts"][0]["caption"]


def test_without_timings_the_time_is_called_expected(bare: Path) -> None:
    found = draft_section(read_sweep(str(bare)))
    assert found
    (speed,) = (chart for chart in found["charts"] if chart["key"] == "draft-time")
    assert speed["title"] == "Expected time, not measured"
    assert speed["caption"].startswith("Not measured: ")
    labels = [column["label"] for column in found["table"]["columns"]]
    assert "× full depth's time, expected" in labels
    assert not [label for label in labels if label.endswith(", measured") or "Tokens/s" in label]


def test_a_generate_that_looks_drafts_up_stands_beside_those_of_layers(tmp_path: Path) -> None:
    folder = drafting(tmp_path / "s", pairs=PAIRS[:1])
    looks_up = HFGenerate(variant="lookup")
    time(folder, {NORMAL: [1.0] * 6, looks_up: [0.8] * 6, EARLY: [0.9] * 6, PAIRS[0]: [0.5] * 6})
    drafts = known(read_sweep(str(folder)))
    assert drafts.rows["configuration"].tolist() == [its.key for its in (PAIRS[0], NORMAL, EARLY, looks_up)]


def test_texts_that_are_not_those_of_normal_are_counted(bare: Path) -> None:
    sweep = read_sweep(str(bare))
    changed = sweep.generations.assign(equal_share=sweep.generations["equal_share"])
    changed.loc[changed["configuration"].isin(KEYS[:2]) & (changed["prompt_id"] == "3"), "equal_share"] = 0.5
    for of, n in ((sweep, 0), (replace(sweep, generations=changed), 2)):
        found = draft_section(of)
        assert found
        assert found["charts"][0]["caption"].endswith(f"Texts that are not those of normal: {n} of 36.")


def test_the_section_is_drawn_by_batch_size_beside_plain_decoding(
    timed: Callable[..., Sweep], visit: Visit, tmp_path: Path
) -> None:
    seconds: dict[Any, float] = {NORMAL: 1.0, GENERATE: 0.9, EARLY: 0.8, **dict.fromkeys(PAIRS, 1.1), FIXED: 1.0}
    report = tmp_path / "r.html"
    report.write_text(render(timed(seconds, batches=(1, 8), calls=2), ""), encoding="utf-8")
    page = visit("#/", report)
    page.get_by_role("link", name="Drafts", exact=True).press("Enter")
    page.locator("#drafts:focus").wait_for(state="attached")
    assert page.evaluate("document.activeElement.id") == "drafts"
    for key in ("acceptance", "time"):
        assert ink_of(all_drawn(page.locator(f'[data-chart="draft-{key}"]')).locator(".chart")) > 50, key
    page.locator('[data-chart="draft-time"] select').select_option(label="batch 8")
    names = page.locator(".figures > .tabled tbody th").all_inner_texts()
    assert names == [*KEYS, NORMAL.key, GENERATE.key, EARLY.key]
    cells = page.locator(".figures > .tabled tbody tr").last.locator("td").all_inner_texts()
    assert cells[4] == "0.80 [0.80, 0.80]"
    assert cells[0] == "–"
    page.locator('[data-chart="draft-acceptance"] canvas').click(position={"x": 250, "y": 25})
    page.locator("h1", has_text="draft/10:").wait_for()


def test_drafted_tokens_are_marked_and_counted(visit: Visit, bare: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text(render(read_sweep(str(bare)), ""), encoding="utf-8")
    page = visit("#/p/0/draft/20:2/vs/normal/t/1", report)
    drafts, normal = page.locator(".texts section").all()
    marked = drafts.locator(".tokens .drafted")
    assert [int(token.get_attribute("data-i")) for token in marked.all()] == [1, 3]
    assert marked.first.evaluate("e => getComputedStyle(e).borderBottomStyle") == "dashed", "not by colour alone"
    assert "Shaded: 2 of 3 decided tokens (66.7%) were drafted after layer 20" in drafts.inner_text()
    assert "Drafted after layer 20; full depth agreed." in page.locator(".pane").inner_text()
    assert "Shaded" not in normal.inner_text()
    assert not normal.locator(".drafted").count()
