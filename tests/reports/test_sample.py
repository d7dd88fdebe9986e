"""FINDINGS.md has the numbers of the results beside it, and README those of FINDINGS alone."""

import re

from house import ROOT

import eexit
from eexit.output.text import percent
from eexit.results.layout import MANIFEST
from eexit.studies.assessment.verdict import FILE, REASONS, Verdict

SAMPLE = ROOT / "reports" / "sample"
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)|SmolLM2-135M|Qwen2\.5-Coder-0\.5B|float32|bfloat16|4 bits")


def numbers(text: str) -> set[str]:
    return {*re.findall(r"\d+(?:[.,]\d+)*", NAMES.sub("", text))}


def test_findings_have_the_verdicts_sentences_and_cells() -> None:
    findings = " ".join((SAMPLE / "FINDINGS.md").read_text("utf-8").split())
    verdicts = [Verdict.model_validate_json(path.read_text("utf-8")) for path in SAMPLE.rglob(FILE)]
    assert verdicts
    for verdict in verdicts:
        assert REASONS[verdict.why].sentence in findings
        for cell in verdict.cells.values():
            assert percent(cell.saved.mean) in findings


def test_readme_quotes_numbers_of_findings_alone() -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("## What it found so far")[2].partition("\n## ")[0]
    assert numbers(section)
    assert numbers(section) <= numbers((SAMPLE / "FINDINGS.md").read_text("utf-8"))


def test_every_sweep_opens_and_its_right_answers_are_in_findings() -> None:
    findings = (SAMPLE / "FINDINGS.md").read_text("utf-8")
    sweeps = [eexit.open(path.parent) for path in SAMPLE.rglob(MANIFEST)]
    assert sweeps
    for sweep in sweeps:
        assert percent(sweep.runs.query("configuration == 'normal'")["correct"].astype(float).mean()) in findings


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 4_000_000
    assert len((SAMPLE / "FINDINGS.md").read_text("utf-8").splitlines()) <= 150
