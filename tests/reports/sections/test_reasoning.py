"""The section on chains of thought: its numbers, compared with plain pandas."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from byte_model import save_byte_model
from chart_fields import content_of
from commands import here
from landed_sweep import land_all, land_rows
from report_fixtures import Visit
from scripted import sweep_of

from eexit.plan.grid_types import ControlSpec
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt, SweepConfig
from jobs.files.chains import main
from reports.page.build import build_report
from reports.read.sweep import read_sweep
from reports.sections.reasoning import NO_NECESSITY, by_steps

PROMPTS = tuple(Prompt(id=f"p-{n}", prompt=f"Question {n}?", answer="7", steps=1 + n % 3) for n in range(30))
KEY, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"
SHOWN = f"{KEY} (oracle)"
FIELDS: Mapping[str, Any] = {
    "modes": ("normal", "unfrozen"), "kl_factors": (1.0,), "thinking_until": "(?i)answer:",
    "controls": (ControlSpec(of=KEY, counts={5: 1, 29: 1}),),
}  # fmt: skip


def thinking(run: Run) -> dict[str, Any]:
    """Return runs in which the setting thinks longer than normal, and only the setting's answers need the chain."""
    n, key = int(run.prompt.id.split("-")[1].split("/")[0]), run.configuration.key
    needs = key == KEY and run.prompt.group is not None
    cost = {"normal": 100.0, KEY: 70.0}.get(key, 80.0) + n
    return {
        "correct": n % 5 > 0 and not (needs and n % 2), "n_thinking_tokens": 10 + n + (4 if key == KEY else 0),
        "n_answer_tokens": 3, "thinking_closed": True, "mean_depth": 1.0 if key == "normal" else 0.6 + n / 1000,
        "macs_full": 100.0 + n, "macs_required": cost, "macs_executed": cost,
    }  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a sweep, and the necessity of its chains."""
    folder = tmp_path_factory.mktemp("reasoning")
    followed = tuple(replace(each, id=f"{each.id}/keep-0", group=each.id) for each in PROMPTS)
    sweep = land_rows(folder / "sweep", sweep_of("a-model", prompts=PROMPTS, **FIELDS), thinking)
    land_rows(folder / "without", sweep_of("a-model", prompts=followed, **FIELDS), thinking)
    assert here(main, sweep, "--necessity", folder / "without").returncode == 0
    return sweep


@pytest.fixture(scope="module")
def reasoned(swept: Path) -> Path:
    """Return the sweep's report."""
    return build_report(str(swept), swept / "report.html")


def test_the_section_has_what_plain_pandas_makes_of_the_runs(swept: Path, reasoned: Path) -> None:
    found = content_of(reasoned)["reasoning"]
    assert [chart["key"] for chart in found["charts"]] == [
        "reasoning-cost", "reasoning-length", "reasoning-need", "reasoning-steps"
    ]  # fmt: skip
    runs = pd.read_parquet(swept / "generations").set_index("prompt_id")
    by_key = {row["configuration"]: row for row in found["table"]["rows"]}
    for key, of in runs.groupby("configuration"):
        assert by_key[key]["n_thinking_tokens"] == pytest.approx(of["n_thinking_tokens"].mean())
        assert by_key[key]["correct"] == pytest.approx(of["correct"].astype(float).mean())
    assert by_key[KEY]["longer"] == 4
    assert (by_key[KEY]["kind"], by_key[CONTROL]["kind"]) == ("setting", "control")
    assert by_key[KEY]["necessity"] == pytest.approx(12 / 30)
    assert by_key["normal"]["necessity"] == 0
    assert by_key[KEY]["beside_control"] == pytest.approx(12 / 30)
    steps = by_steps(read_sweep(str(swept))).set_index(["configuration", "steps"])
    for n in (1, 2, 3):
        ids = [prompt.id for prompt in PROMPTS if prompt.steps == n]
        right = runs[runs["configuration"] == KEY].loc[ids, "correct"].astype(float)
        assert steps.loc[(KEY, n), "correct"] == pytest.approx(right.mean())
        lost = [int(each[2:]) for each in ids if int(each[2:]) % 5 and int(each[2:]) % 2]
        assert steps.loc[(KEY, n), "necessity"] == pytest.approx(len(lost) / len(ids))
    assert NO_NECESSITY not in found["about"]


def test_a_page_shows_the_chain_and_the_answer_apart(visit: Visit, reasoned: Path, tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"),
        prompts=tuple(Prompt(id=str(n), prompt=f"Why {n}?", answer="7") for n in range(6)),
        modes=("normal", "unfrozen"), rules={"kl": (0.5,)}, exit_every=3, max_new_tokens=24, dtype="float32",
        thinking_until=">",
    )  # fmt: skip
    real = land_all(tmp_path / "real", config)
    page_of_real = build_report(str(real), tmp_path / "real.html")
    data = content_of(page_of_real)
    assert data["reasoning"]["charts"], "a section without answers to chains"
    runs = pd.read_parquet(real / "generations").set_index(["prompt_id", "configuration"])
    keys = [each["key"] for each in data["configurations"]]
    apart: list[tuple[str, str]] = []
    for prompt in data["prompts"]:
        for run in prompt["runs"]:
            key = keys[run["c"]]
            n, of = runs.loc[(prompt["id"], key), ["n_thinking_tokens", "n_answer_tokens"]]
            assert run["parts"] == [*([[0, "thinking"]] * bool(n)), *([[n, "answer"]] * bool(of))]
            apart += [(prompt["id"], key)] if n and of else []
    (prompt_id, key), *_ = apart
    page = visit(f"#/p/{prompt_id}/{key}", page_of_real)
    assert page.locator(".tokens .part").all_inner_texts()[:2] == ["Chain of thought", "Answer"]
    page = visit("#/at/reasoning", reasoned)
    assert page.locator("[data-fold=reasoning] figure").count() == 4
    page.locator("[data-fold=reasoning] figure canvas, [data-fold=reasoning] figure svg").first.wait_for()
