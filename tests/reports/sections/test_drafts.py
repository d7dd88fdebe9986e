"""The section on drafts: acceptance, speed, and whether any draft beats plain decoding."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chart_fields import charts_of, known
from report_fixtures import Visit, all_drawn, ink_of
from synthetic_sweeps import add_timings, swept

from eexit.plan.configuration import Configuration, Draft, EarlyExit, HFGenerate, NoExit
from eexit.quality.estimates import estimate_ratios
from reports.page.payload import payload
from reports.read.sweep import read_sweep
from reports.sections.drafts import draft_section, drafted

PAIRS = [Draft(layer, n) for layer in (10, 20) for n in (2, 10, 20)]  # in the order of the section
KEYS = [f"draft/{draft}" for draft in PAIRS]
FIXED = EarlyExit("unfrozen", "fixed", 10.0)
NORMAL, GENERATE, EARLY = NoExit(), HFGenerate(), HFGenerate(10)


def drafting(folder: Path, n_prompts: int = 6, pairs: Sequence[Draft] = PAIRS, **of_drafts: Any) -> Path:
    """Return `normal`, an online rule if there are several prompts, and the drafts, the last of which come first.

    There are ten drafted tokens per prompt, and a pass per four decided tokens, of which later prompts have more.
    """

    def columns(its: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        if not isinstance(its, Draft):
            needed, run = (50.0, 80.0) if its == FIXED else (100.0, 100.0)
            return {"macs_full": 100.0, "macs_required": needed, "macs_executed": run}
        accepted, full = 2 + prompt % 3 + its.layer // 10, 120.0 * (prompt + 2)
        return {
            "drafted": 10, "accepted": accepted, "acceptance": accepted / 10, "acceptance_per_token": 0.5 + prompt / 20,
            "passes": prompt + 2, "tokens_per_pass": 4.0, "layer_calls": 50, "expected_time": 1 / (1 + prompt / 10),
            "mean_depth": 1.0, "exit_rate": 0.0, "disagreement": 0.0, "equal_share": 1.0, "lcs_share": 1.0,
            "macs_full": full, "macs_required": full, "macs_executed": full * 5 / 3, **of_drafts,
        }  # fmt: skip

    def of_token(its: Configuration, token: Mapping[str, Any]) -> dict[str, Any]:
        return {"drafted": isinstance(its, Draft) and token["position"] % 2 == 1}

    grid: list[Configuration] = [NoExit(), *([FIXED] if n_prompts > 1 else []), *reversed(pairs)]
    return swept(folder, grid, n_prompts, columns=columns, of_token=of_token)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drafting(tmp_path_factory.mktemp("drafts") / "s")


def timed(bare: Path, folder: Path, seconds: Mapping[Any, float], batches: Sequence[int] = (1,)) -> Path:
    """Return a copy of a sweep with two calls with these seconds, in each round."""
    shutil.copytree(bare, folder)
    slow = np.linspace(1.0, 2.0, 6)  # rounds differ: only the same round may be compared
    rounds = {key: list(value * slow) for key, value in seconds.items()}
    columns = {its: {"drafted": 10, "accepted": 5} if isinstance(its, Draft) else {} for its in seconds}
    for call in (1, 2):
        add_timings(folder, rounds, call, batches, columns=lambda its: columns[its])
    return folder


def test_drafts_are_in_the_order_of_layer_and_length(bare: Path, tmp_path: Path) -> None:
    found = known(drafted(read_sweep(str(bare))))
    assert found.drafts["configuration"].tolist() == KEYS, "which sweep.json lists the other way round"
    assert (found.layers, found.lengths) == ([10, 20], ["2", "10", "20"])
    looks_up = HFGenerate(variant="lookup")
    folder = timed(bare, tmp_path / "s", {NORMAL: 1.0, looks_up: 0.8, EARLY: 0.9, PAIRS[0]: 0.5})
    rows = known(drafted(read_sweep(str(folder)))).rows
    assert rows["configuration"].tolist() == [*KEYS, NORMAL.key, EARLY.key, looks_up.key]


def test_no_draft_is_told_of_as_an_exit(bare: Path, tmp_path: Path) -> None:
    folder = timed(bare, tmp_path / "s", {NORMAL: 1.0, GENERATE: 1.2, FIXED: 0.9, **dict.fromkeys(PAIRS, 1.1)})
    data, _ = payload(read_sweep(str(folder)), "")
    charts = charts_of(data)
    assert {"quality", "mix", "depth"} <= charts.keys()
    for chart in charts.values():
        assert not {row["configuration"] for row in chart["table"]["rows"]} & set(KEYS), chart["key"]
    assert set(KEYS) <= {configuration["key"] for configuration in data["configurations"]}
    alone = timed(drafting(tmp_path / "alone", 1), tmp_path / "t", {NORMAL: 1.0, GENERATE: 1.0, PAIRS[0]: 1.0})
    data, _ = payload(read_sweep(str(alone)), "")
    assert (data["charts"], len(data["drafts"]["charts"])) == ([], 2)


def test_acceptance_is_a_ratio_of_sums_with_an_interval_over_prompts(bare: Path, tmp_path: Path) -> None:
    row = known(drafted(read_sweep(str(bare)))).rows.set_index("configuration").loc["draft/10:2"]
    accepted = np.array([[2.0 + prompt % 3 + 1] for prompt in range(6)])
    (share,) = estimate_ratios(accepted, np.full((6, 1), 10.0))
    numbers = [row[name] for name in ("acceptance", "acceptance_low", "acceptance_high", "tokens_per_pass")]
    assert numbers == pytest.approx([accepted.sum() / 60, share.low, share.high, 4])
    # The expected time is a ratio of sums of costs, so long texts, which have the larger one here, count more.
    decided = np.array([4.0 * (prompt + 2) for prompt in range(6)])
    expected = (decided / [1.0 + prompt / 10 for prompt in range(6)]).sum() / decided.sum()
    assert row["expected"] == pytest.approx(expected)
    assert expected < 0.8
    assert row["acceptance_per_token"] == pytest.approx(0.5 + np.mean(range(6)) / 20)
    nothing = {"drafted": 0, "accepted": 0, "acceptance": None, "acceptance_per_token": None}
    sweep = read_sweep(str(drafting(tmp_path / "s", 1, PAIRS[:1], **nothing)))
    (chart,) = known(draft_section(sweep))["charts"]
    assert (chart["key"], "nan" in chart["caption"]) == ("draft-time", False)


def test_without_timings_the_time_is_called_expected_and_other_texts_are_counted(bare: Path) -> None:
    sweep = read_sweep(str(bare))
    changed = sweep.generations.assign(equal_share=sweep.generations["equal_share"])
    changed.loc[changed["configuration"].isin(KEYS[:2]) & (changed["prompt_id"] == "3"), "equal_share"] = 0.5
    for of, n in ((sweep, 0), (replace(sweep, generations=changed), 2)):
        found = known(draft_section(of))
        acceptance, time = found["charts"]
        assert acceptance["caption"].endswith(f"not those of normal: {n} of 36.")
        assert time["title"] == "Expected time, not measured"
        labels = [column["label"] for column in found["table"]["columns"]]
        assert [label for label in labels if "time" in label or "Tokens/s" in label] == [
            "× full depth's time, expected"
        ]


def test_the_section_is_drawn_and_drafted_tokens_are_marked(bare: Path, visit: Visit, tmp_path: Path) -> None:
    seconds: dict[Any, float] = {NORMAL: 1.0, GENERATE: 0.9, EARLY: 0.8, **dict.fromkeys(PAIRS, 1.1), FIXED: 1.0}
    folder = timed(bare, tmp_path / "s", seconds, batches=(1, 8))
    page = visit("#/", folder)
    page.get_by_role("link", name="Drafts", exact=True).press("Enter")
    page.locator("#drafts:focus").wait_for(state="attached")
    for key in ("acceptance", "time"):
        assert ink_of(all_drawn(page.locator(f'[data-chart="draft-{key}"]')).locator(".chart")) > 50, key
    page.locator('[data-chart="draft-time"] select').select_option(label="batch 8")
    names = page.locator(".figures > .tabled tbody th").all_inner_texts()
    assert names == [*KEYS, NORMAL.key, GENERATE.key, EARLY.key]
    cells = page.locator(".figures > .tabled tbody tr").last.locator("td").all_inner_texts()
    assert (cells[0], cells[4]) == ("–", "0.80 [0.80, 0.80]")
    page.locator('[data-chart="draft-acceptance"] canvas').click(position={"x": 250, "y": 25})
    page.locator("h1", has_text="draft/10:").wait_for()
    page = visit("#/p/0/draft/20:2/vs/normal/t/1", folder)
    page.get_by_role("heading", name="draft/20:2 on prompt 0").wait_for()
    drafts, normal = page.locator(".texts section").all()
    marked = drafts.locator(".tokens .drafted")
    assert [int(token.get_attribute("data-i")) for token in marked.all()] == [1, 3]
    assert marked.first.evaluate("e => getComputedStyle(e).borderBottomStyle") == "dashed", "not by colour alone"
    assert "2 of 3 decided tokens (66.7%)" in drafts.inner_text()
    assert "Drafted after layer 20; full depth agreed" in page.locator(".pane").inner_text()
    assert "Shaded" not in normal.inner_text()
    assert not normal.locator(".drafted").count()
