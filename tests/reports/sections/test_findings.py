"""Which settings are as good as full depth: counted once and alike wherever it is said, and why where none can be."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_quality import graded, quality_in, with_answers

from eexit.plan.configuration import Configuration, Exit, Normal
from reports.read.sweep import read_sweep
from reports.sections.findings import SEVERAL, quality_findings, sweep_findings
from reports.sections.verdict import verdict
from reports.sections.which_setting import settings_section
from reports.shared.per_configuration import per_configuration

ONLINE, ORACLE = Exit("unfrozen", "confidence", 0.9), Exit("unfrozen", "agree", None)


def counts(text: str) -> list[tuple[int, int]]:
    """How many of how many, for each time that settings are counted."""
    found = re.findall(r"(none|\d+) of the (\d+) settings? tried that a deployed model can follow", text)
    found += [("none", n) for n in re.findall(r"Of the (\d+) settings? tried that a deployed model can follow", text)]
    return [(0 if kept == "none" else int(kept), int(n)) for kept, n in found]


@pytest.mark.parametrize(("margin", "kept"), [(0.0, 0), (0.35, 2), (1.0, 4)])
def test_every_place_counts_the_same_settings(tmp_path: Path, margin: float, kept: int) -> None:
    """Two online settings and two of an oracle in each of two modes, each with its control."""
    found = replace(quality_in(with_answers(tmp_path / "s", 14)), margin=margin)
    said = verdict(None, found)
    assert said
    assert counts(said.sentences[0]) == [(kept, 4)]
    by_mode = [count for finding in quality_findings(found, 0) for count in counts(finding)]
    assert [n for _, n in by_mode] == [2, 2]
    assert sum(of_mode for of_mode, _ in by_mode) == kept
    section = settings_section(found)
    assert section
    assert [row["kept"] for row in section["table"]["rows"]].count("yes") == kept


CHECKED = "Answers were checked, but "


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ({Normal(): "✓", ONLINE: "✓"}, f"{CHECKED}fewer than 5 prompts are too few to say which setting is as good as"),
        ({Normal(): "✓✓✓✓✓✓", ORACLE: "✓✓✓✓✓✗"}, f"{CHECKED}no setting that a deployed model can follow was tried"),
        ({ONLINE: "✓✓✓✓✓✓"}, f"{CHECKED}there are no runs of normal to compare with"),
    ],
)
def test_where_answers_were_checked_it_is_said_why_they_tell_nothing(
    tmp_path: Path, marks: dict[Configuration, str], why: str
) -> None:
    found = quality_in(graded(tmp_path / "s", marks, seeds=(0, 1, 2)))
    said = verdict(None, found)
    assert said
    if ORACLE in marks:  # which is what is said first
        assert said.answer == "Oracles save nothing."
    else:
        assert said.sentences[0].startswith(why)
    section = settings_section(found)
    if section:
        assert section["about"].startswith(why)
    assert "No answer was checked" not in str([said, section])


def test_rules_are_counted_as_rules_whatever_their_exit_sets(tmp_path: Path) -> None:
    sets = ((), (5,), (10,), (15,))
    rules = [Exit("unfrozen", "confidence", 0.9, layers) for layers in sets]
    rules += [Exit("unfrozen", "agree", None, layers) for layers in sets]
    sweep = read_sweep(str(graded(tmp_path / "s", {Normal(): "✓", **dict.fromkeys(rules, "✓")})))
    assert len(rules) > SEVERAL
    (said,) = sweep_findings(per_configuration(sweep))
    assert said.startswith("unfrozen: of 2 rules, 8 with their exit sets, unfrozen/")
