"""The wrong exits of the highest probability, with what full depth would have said."""

from pathlib import Path

import pytest
from report_fixtures import Visit
from synthetic_sweeps import run_rows, write_runs

from eexit.plan.configuration import EarlyExit
from reports import PageOptions, build_report


@pytest.mark.parametrize("max_bytes", [1, 1_000_000])
def test_the_surest_wrong_exits_are_shown_with_what_full_depth_would_have_said(
    visit: Visit, tmp_path: Path, max_bytes: int
) -> None:
    """Side files that are read at once give each prompt its own tokens."""
    runs = []
    for prompt in ("first", "second", "third"):
        run = run_rows(prompt, "?", "unfrozen", 1.0, ["The", prompt], of=EarlyExit("unfrozen", "confidence", 0.9))
        run[1][1].update(exit_layer=5, final_token_id=7, exit_logprob=-0.05, logprob=-6.0)
        runs.append(run)
    path = build_report(str(write_runs(tmp_path / "s", runs)), tmp_path / "r.html", PageOptions(max_bytes=max_bytes))
    page = visit("#/", path=path)
    section = page.locator("section", has=page.locator("#confident"))
    links = section.locator("tbody tr th a")
    links.nth(2).wait_for()
    assert sorted(links.all_inner_texts()) == ["“first”", "“second”", "“third”"]
    first = section.locator("tbody tr").first
    first.get_by_text("token 7").wait_for()
    assert "95%" in first.inner_text()
    assert "3 of 3 rows" in section.inner_text()
    links.first.click()
    page.locator(".pinned").wait_for()
