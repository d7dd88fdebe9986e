"""`eexit compare`: what it prints, its JSON and its page, of sweeps and of an assessment."""

import json
import shutil
from pathlib import Path

import pytest
from chart_fields import content_of
from commands import here, refusal
from compared_sweeps import ONLINE, ORACLE, save_model_sweep

from eexit.plan.configuration import GENERATE, NoExit
from eexit.quality.estimates import Estimate
from eexit.results.layout import REPORT, REPORT_MARK
from eexit.studies.assessment.verdict import FILE, AlternativeTime, Bound, Cell, JudgedSetting, Verdict
from jobs.compare import main

TIMED = AlternativeTime(time=Estimate(1.2, 1.1, 1.3, 24), of_generate=Estimate(0.8, 0.7, 0.9, 24))
SAVED = {"A": 0.4, "B": 0.2, "C": 0.1, "D": 0.05}
VERDICT = Verdict(
    why="slower", bound=Bound(risk="answers", max_risk=0.02), batch=1,
    setting=JudgedSetting(key=ONLINE.key, certified=True, use=1, losses={}, saved=Estimate(0.03, 0.02, 0.04, 12),
                          time=TIMED.time),
    cells={name: Cell(mode="unfrozen", saved=Estimate(mean, mean - 0.01, mean + 0.01, 12), lost=0.02, safe=None,
                      safe_share=0.0, bold=ORACLE.key, bold_share=1.0) for name, mean in SAVED.items()},
    timed={ONLINE.key: TIMED, GENERATE: AlternativeTime(time=Estimate(1.5, 1.4, 1.6, 24))},
)  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    small = save_model_sweep(tmp_path / "small", "org/small")
    (small / REPORT).write_text(REPORT_MARK)
    large = {"bold": 0.6, "dtype": "bfloat16"}
    save_model_sweep(tmp_path / "large" / "run", "large", grid=(NoExit(), ONLINE), **large)  # type: ignore[arg-type]
    save_model_sweep(tmp_path / "large" / "oracles", "large", grid=(ORACLE,), **large)  # type: ignore[arg-type]
    for folder in ("large", "large/run"):
        (tmp_path / folder / FILE).write_text(VERDICT.to_json())
    shutil.copytree("large", "broken")
    Path("broken", FILE).unlink()
    Path("mine.html").write_text("mine")
    return ["small", "large"]


def test_a_sweep_beside_an_assessment(pair: list[str]) -> None:
    done = here(main, *pair, "--confidence", "0.95", "0.998", "--json", "c.json", "--out", "pages/c.html")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "dtype differs: float32 (small), bfloat16 (large)"
    assert lines[1].startswith("chat templates may differ: ")
    assert any(line.startswith("small 30 576 49,152 135 M 8.00 float32 12 ") for line in lines)
    assert f"large 40.0% (39.0 to 41.0) 20.0% (19.0 to 21.0) 5.0% (4.0 to 6.0) 3.0% (2.0 to 4.0) {ONLINE.key}" in lines
    assert "large 1.50 (1.40 to 1.60) 1.20 (1.10 to 1.30) 0.80 (0.70 to 0.90)" in lines
    assert "paired differences measure at (layers) points 95% interval 99.8% interval n" in lines
    assert lines[-2:] == ["c.json", "pages/c.html"]
    held = json.loads(Path("c.json").read_text())
    assert [row["cell_A"] for row in held["models"]] == [None, 0.4]
    narrow, wide = (each["rows"][0] for each in held["differences"])
    assert narrow["difference"] == wide["difference"]
    assert wide["difference_low"] < narrow["difference_low"]
    found = content_of(Path("pages/c.html"))["comparison"]
    assert found["notes"] == done.stdout.splitlines()[:2]
    titles = ["Models", "Agreement with the final layer", "Sure and confirmed", "Exited by the oracle"]
    assert [table["title"] for table in found["tables"]] == [*titles, "Assessments", "Time", "Differences"]
    assert found["reports"] == {"small": "../small/report.html"}
    depths, settings = found["charts"]
    assert {row["model"] for row in depths["table"]["rows"]} == {"small", "large"}
    assert {row["configuration"] for row in settings["table"]["rows"]} == {ORACLE.key, ONLINE.key}
    assert here(main, *pair, "--out", "pages/c.html").returncode == 0, "the page is replaced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("large broken", "broken is an assessment without verdict.json: finish it with the same eexit assess"),
        ("small large --confidence 1", "must be at least 0.5 and below 1, as in 0.998, got 1"),
        ("small large --json small/tokens/c.json", "--json"),
        ("small large --out mine.html", "mine.html is not a report's file"),
    ],
)
def test_bad_input_is_one_line(pair: list[str], arguments: str, message: str) -> None:
    assert message in refusal(main, *arguments.split())
    assert Path("mine.html").read_text() == "mine"
