"""Assessments of tiny models, in this process: as little of everything as gives a verdict."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from place_here import Here

from cluster.assessment import asked as of_asked
from cluster.assessment import learned, sizes
from cluster.assessment.asked import Asked
from cluster.assessment.assess import assess
from cluster.assessment.outcome.verdict import Verdict
from eexit.output.progress import Silence
from eexit.plan.config import Prompt
from eexit.studies.verdict_file import FILE

MARGIN = 0.1
PROMPTS = tuple(Prompt(f"p{n}", f"word {n * 7919 % 1000} of {n}") for n in range(150))
READING = {"confidence": (0.5, 0.9, 0.99)}  # rules that read layers


class Told(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Interrupted(Here):
    """Ctrl-C after each thing that was done."""

    def _done(self, name: str) -> None:
        super()._done(name)
        raise KeyboardInterrupt


class InterruptedAtLanding(Here):
    """Ctrl-C after each landing in what has such a name."""

    def __init__(self, where: Callable[[str], bool]) -> None:
        super().__init__(is_steady=True)
        self.where = where

    def landed(self, name: str) -> None:
        super().landed(name)
        if self.where(name):
            raise KeyboardInterrupt


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little of everything as gives a verdict, and nothing learned."""
    for name, value in {
        "SWEPT_PROMPTS": 1, "LEAST_LOOKS": 1, "MOST_LOOKS": 1, "MOST_TRIED": 3, "MOST_SETTINGS": 1, "TIMED_PROMPTS": 1,
        "TIMED_TOKENS": 12, "MOST_ROUNDS": 6, "MOST_SEEDS": 1, "STARTS": {"": 7},
    }.items():  # fmt: skip
        monkeypatch.setattr(sizes, name, value)
    monkeypatch.setattr(of_asked, "TEXT_TOKENS", 8)
    monkeypatch.setattr(learned, "RULES", READING)


def asked_of(model: Path, exit_every: int = 3, **others: Any) -> Asked:
    common = {"model": str(model), "dtype": "float32", "max_new_tokens": 12, "exit_every": exit_every}
    return Asked(common, PROMPTS, **{"minutes": 240, "margin": MARGIN, "batches": (1, 4), **others})


def assess_here(asked: Asked, out: Path, place: Here | None = None, told: Told | None = None) -> Verdict:
    return assess(asked, out, lambda display: place or Here(is_steady=True), told or Told())


def settled(out: Path) -> dict[str, Any]:
    """What the verdict says, but for how long the steps took and how busy the machine was."""
    held = json.loads((out / FILE).read_text())
    left_out = [remark for remark in held["remarks"] if remark.startswith("Left out")]
    return {name: value for name, value in held.items() if name not in ("seconds", "remarks")} | {"remarks": left_out}
