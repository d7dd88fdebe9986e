"""The same command goes on, whatever ended it and whatever was lost: the verdict is that of an undisturbed one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from assessing import InterruptedAtLanding, Told, asked_of, assess_here, settled
from exiting_models import save_exiting_model
from finished_assessments import quick
from place_here import Here

from cluster.assessment import learned, sizes
from cluster.assessment.asked import Asked
from cluster.assessment.learned import Learned
from cluster.assessment.record import RECORD
from cluster.assessment.workshop import CEILING_LEARNED, RUN, TRIED
from eexit.errors import UsageError
from eexit.method.screen_size import ScreenSize
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold
from eexit.results.study_tables import REPLAYS

pytestmark = pytest.mark.usefixtures("two_rules")


def test_a_folder_in_which_another_assessment_is_at_work_is_refused_and_left_alone(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model", n_layers=2)
    out, place = tmp_path / "out", Here()
    with hold(open_store(out), use=ASSESSING):
        with pytest.raises(UsageError, match=r"out is being assessed by process \d+ on .*: wait for it, or stop it"):
            assess_here(quick(tmp_path / "model"), out, place)
        assert [path.name for path in out.iterdir()] == ["assessment-lease.json"]
    assert not place.did


@pytest.mark.slow
def test_interrupted_at_every_landing_of_the_search_the_verdict_is_that_of_an_undisturbed_one(
    paying: tuple[Path, Path], tmp_path: Path
) -> None:
    model, undisturbed = paying
    out, n_interrupted = tmp_path / "out", 0
    while True:
        try:
            assess_here(quick(model), out, InterruptedAtLanding(lambda name: name in ("replays of ceiling", TRIED)))
            break
        except KeyboardInterrupt:
            n_interrupted += 1
    assert n_interrupted == len(learned.RULES) + 1
    assert settled(out) == settled(undisturbed)
    assert settled(out)["pays"]


FOLDERS = ("look", "look/timings", "look/tokens", "ceiling", "ceiling/replays", "tried", "run", "run/choices",
           "run/timings", "run/generations")  # fmt: skip
FILES = ("run/sweep.json", RECORD, "verdict.json")
ONE_OF = ("run/generations", "run/tokens")
DAMAGED = ("look/timings", "ceiling/replays", "tried/generations", "run/choices", "run/timings")


def lose(out: Path, what: str) -> None:
    how, _, name = what.partition(" ")
    match how:
        case "folder":
            shutil.rmtree(out / name)
        case "file":
            (out / name).unlink()
        case "one-of":
            first(out / name).unlink()
        case "bytes-of":
            damage(first(out / name))


LOST = (
    *(f"folder {name}" for name in FOLDERS),
    *(f"file {name}" for name in FILES),
    *(f"one-of {name}" for name in ONE_OF),
    *(f"bytes-of {name}" for name in DAMAGED),
)


def first(folder: Path) -> Path:
    return sorted(folder.glob("*.parquet"))[0]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("lost", LOST)
def test_whatever_of_a_finished_assessment_is_lost_is_done_again_and_the_verdict_is_the_same(
    paying: tuple[Path, Path], tmp_path: Path, lost: str
) -> None:
    model, undisturbed = paying
    out, place, told = tmp_path / "out", Here(is_steady=True), Told()
    shutil.copytree(undisturbed, out)
    lose(out, lost)
    assess_here(quick(model), out, place, told)
    assert settled(out) == settled(undisturbed)
    is_written_anew = lost in ("file verdict.json", "file run/sweep.json", "file assessment.json")
    assert bool(place.did) != is_written_anew
    assert any("damaged" in line for line in told.lines) == (lost not in ("file verdict.json", f"file {RECORD}"))
    again = Here(is_steady=True)
    assess_here(quick(model), out, again)
    assert again.did == []


def learning(model: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """An assessment that learns a readout, a probe and a gate, of few rules."""
    monkeypatch.setattr(sizes, "STARTS", {"gate": 14, "": 7})
    monkeypatch.setattr(learned, "SCREEN", ScreenSize(33, 256))
    rules = {"confidence": (0.5, 0.9), "entropy": (1.0,)}
    monkeypatch.setattr(learned, "RULES", rules)
    linear, _, probe, gate = learned.LEARNED
    gate = Learned(
        gate.what, gate.role, options={"rules": ("confidence/0.5", "confidence/0.9", "entropy/1")}, for_reads=True
    )
    monkeypatch.setattr(learned, "LEARNED", (linear, probe, gate))
    save_exiting_model(model, n_layers=8, n_tokens=2000, width=32, sharp=30)
    return asked_of(model, 2)


class BeforeTheRun(InterruptedAtLanding):
    """It ends before the run, and at landings likewise."""

    def sweep(self, config: object, out: str) -> None:
        if Path(out).name == RUN:
            raise EOFError
        super().sweep(config, out)  # type: ignore[arg-type]


def searched(asked: Asked, out: Path, where: Callable[[str], bool]) -> tuple[int, list[dict[str, object]], object]:
    """How often the search was interrupted there, the replays that it left, and what it found to be worth a test."""
    n_interrupted = 0
    while True:
        try:
            assess_here(asked, out, BeforeTheRun(where))
        except KeyboardInterrupt:
            n_interrupted += 1
        except EOFError:
            break
    rows = [row for name in ("ceiling", CEILING_LEARNED) for row in REPLAYS.rows(open_store(out / name))]
    columns = ("configuration", "readout", "decide_on", "expected_disagreement", "cost_run")
    replays = sorted(({name: row[name] for name in columns} for row in rows), key=str)
    return n_interrupted, replays, json.loads((out / RECORD).read_text())["plans"]["front"]


@pytest.mark.slow
def test_what_was_learned_is_searched_alike_if_it_is_interrupted_at_every_landing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, out = learning(tmp_path / "model", monkeypatch), tmp_path / "out"
    n_interrupted, replays, front = searched(asked, out, lambda name: name.startswith("replays") or name == TRIED)
    assert n_interrupted >= 2 * 2 + 1 + 1
    assert len({str(row) for row in replays}) == len(replays)
    for name in ("ceiling/replays", CEILING_LEARNED, TRIED):
        shutil.rmtree(out / name)
    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps({**record, "plans": {**record["plans"], "front": None}}))
    assert searched(asked, out, lambda name: False) == (0, replays, front)
