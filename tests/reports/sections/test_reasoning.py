"""The section on chains of thought: its numbers, compared with plain pandas."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from chart_fields import content_of
from commands import here
from driving import land_rows
from report_fixtures import Visit
from scripted import sweep_of
from synthetic_sweeps import run_rows, write_runs

from eexit.plan.grid_types import ControlSpec
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt
from eexit.results.checksums import encode_sealed
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHAINS
from jobs.files.chains import main
from reports.page.build import build_report
from reports.read.sweep import read_sweep
from reports.sections.reasoning import NO_NECESSITY, by_steps

PROMPTS = tuple(Prompt(id=f"p-{n}", prompt=f"Question {n}?", answer="7", steps=1 + n % 3) for n in range(30))
KEY, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"
FIELDS: Mapping[str, Any] = {
    "modes": ("normal", "unfrozen"), "kl_factors": (1.0,), "thinking_until": "(?i)answer:",
    "controls": (ControlSpec(of=KEY, counts={5: 1, 29: 1}),),
}  # fmt: skip


def thinking(run: Run) -> dict[str, Any]:
    """Return runs in which the setting thinks longer than normal, and only the setting's answers need the chain."""
    n, key = int(run.prompt.id.split("-")[1].split("/")[0]), run.configuration.key
    needs = key == KEY and "/keep-0" in run.prompt.id
    cost = {"normal": 100.0, KEY: 70.0}.get(key, 80.0) + n
    return {
        "correct": n % 5 > 0 and not (needs and n % 2), "n_thinking_tokens": 10 + n + (4 if key == KEY else 0),
        "n_answer_tokens": 3, "thinking_closed": n % 3 > 0, "mean_depth": 1.0 if key == "normal" else 0.6 + n / 1000,
        "macs_full": 100.0 + n, "macs_required": cost, "macs_executed": cost,
    }  # fmt: skip


@pytest.fixture(scope="module")
def reasoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report on a sweep, with the necessity of its chains, and a row of an older table."""
    folder, kept = tmp_path_factory.mktemp("reasoning"), ("keep-0", "keep-100/normal")
    followed = tuple(replace(each, id=f"{each.id}/{how}", group=each.id) for each in PROMPTS for how in kept)
    sweep = land_rows(folder / "sweep", sweep_of("a-model", prompts=PROMPTS, **FIELDS), thinking)
    land_rows(folder / "followed", sweep_of("a-model", prompts=followed, **FIELDS), thinking)
    assert here(main, sweep, "--necessity", folder / "followed").returncode == 0
    # Necessity as it was compared with the sweep's own texts, in the columns of that time.
    row = {"chains_id": "0" * 32, "started": datetime.now(UTC), "configuration": KEY, "mode": "unfrozen"}
    row |= {"rule": "kl", "parameter": 1.0, "chain": "keep-0", "necessity": 0.9, "follow_ups": ["old"]}
    old = pa.Table.from_pylist([row], pa.schema([CHAINS.schema.field(name) for name in row]))
    open_store(sweep).publish(CHAINS.file("0" * 32), encode_sealed(old))
    assert 0.9 in CHAINS.read(open_store(sweep))["necessity"].to_pylist()
    return build_report(str(sweep), sweep / "report.html")


def test_the_section_has_what_plain_pandas_makes_of_the_runs(reasoned: Path) -> None:
    found = content_of(reasoned)["reasoning"]
    assert [chart["key"].removeprefix("reasoning-") for chart in found["charts"]] == ["cost", "length", "need", "steps"]
    runs = pd.read_parquet(reasoned.parent / "generations").set_index("prompt_id")
    by_key = {row["configuration"]: row for row in found["table"]["rows"]}
    for key, of in runs.groupby("configuration"):
        assert by_key[key]["n_thinking_tokens"] == pytest.approx(of["n_thinking_tokens"].mean())
        assert by_key[key]["correct"] == pytest.approx(of["correct"].astype(float).mean())
    assert [by_key[key]["kind"] for key in (KEY, CONTROL)] == ["setting", "control"]
    assert by_key["normal"]["necessity"] == 0
    closed = [n for n in range(30) if n % 3]
    needed = len([n for n in closed if n % 5 and n % 2]) / len(closed)
    expected = {"longer": 4, "thinking_closed": len(closed) / 30, "accuracy_beside_normal_closed": 0}
    expected |= dict.fromkeys(("necessity", "beside_control", "beside_normal"), 12 / 30)
    expected |= dict.fromkeys(("necessity_closed", "beside_normal_closed"), needed)
    assert {name: by_key[KEY][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    steps = by_steps(read_sweep(str(reasoned.parent))).set_index(["configuration", "steps"])
    for n in (1, 2, 3):
        ids = [prompt.id for prompt in PROMPTS if prompt.steps == n]
        right = runs[runs["configuration"] == KEY].loc[ids, "correct"].astype(float)
        assert steps.loc[(KEY, n), "correct"] == pytest.approx(right.mean())
        lost = [int(each[2:]) for each in ids if int(each[2:]) % 5 and int(each[2:]) % 2]
        assert steps.loc[(KEY, n), "necessity"] == pytest.approx(len(lost) / len(ids))
    assert NO_NECESSITY not in found["about"]


def test_a_page_shows_the_chain_and_the_answer_apart(visit: Visit, reasoned: Path, tmp_path: Path) -> None:
    run = run_rows("0", "?", "normal", None, ["So", " 3", "Answer:", " 3"])
    for token in run[1]:
        token["part"] = "thinking" if token["position"] < 2 else "answer"
    page = visit("#/p/0/normal", write_runs(tmp_path / "s", [run]))
    assert page.locator(".tokens .part").all_inner_texts() == ["Chain of thought", "Answer"]
    first = page.locator(".tokens .part + .t").all()
    assert [token.get_attribute("data-i") for token in first] == ["0", "2"]
    page = visit("#/at/reasoning", reasoned)
    assert page.locator("[data-fold=reasoning] figure").count() == 4
    page.locator("[data-fold=reasoning] figure canvas, [data-fold=reasoning] figure svg").first.wait_for()
