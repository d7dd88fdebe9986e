"""Assessments of tiny models, as small as a verdict allows: on a Ray within this process, or in a process of their own.

python assessing.py FLAGS
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import here

from cluster.assessment import recipe
from eexit.studies.assessment.verdict import FILE
from jobs import assess

N_PROMPTS, BOUND = 90, "0.3"
SIZES = ("--max-risk", BOUND, "--exit-layers", "2", "4", "5", "--max-new-tokens", "12", "--dtype", "float32")
COMMANDS = ("texts", "linear", "kv-maps", "pilot", "replay", "run", "oracles", "choice", "times", "again")


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TEXT_TOKENS": 8, "REPLAYED": {"confidence": (0.5, 0.9, 0.99)}, "PROMPTS_OF_A_ROUND": 1, "ROUNDS": 6,
        "N_CALLS": 7, "IN_THE_PILOT": {"confidence": (0.9,)},
    }.items():  # fmt: skip
        monkeypatch.setattr(recipe, name, value)


def write_prompts(path: Path, n: int = N_PROMPTS, **columns: Any) -> Path:
    rows = [{"prompt": f"word {number * 7919 % 1000} of {number}", **columns} for number in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flags_of(model: Path, prompts: Path, out: Path) -> list[str]:
    return ["--model", str(model), "--prompts", str(prompts), *SIZES, "--out", str(out)]


def assess_here(*flags: str) -> subprocess.CompletedProcess[str]:
    return here(assess.main, *flags)


def settled(out: Path) -> dict[str, Any]:
    """Return the verdict without times."""
    held = json.loads((out / FILE).read_text())
    of_time = ("pays", "why", "causes", "needed", "missing", "timed", "gaps")
    setting = {name: value for name, value in held["setting"].items() if name != "time"}
    return {name: value for name, value in held.items() if name not in of_time} | {"setting": setting}


def done_by(call: subprocess.CompletedProcess[str]) -> list[str]:
    lines = [line.split(" of 10, ")[1] for line in call.stderr.splitlines() if " of 10, " in line]
    return [line.replace(":", " ").split()[0] for line in lines]


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        sys.exit(assess.main(sys.argv[1:]))
