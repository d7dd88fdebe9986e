"""A whole assessment of a tiny model: its commands, and that it goes on whatever ended it and whatever was lost."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from assessing import COMMANDS, assess_here, done_by, flags_of, make_small, settled, write_prompts
from commands import here
from exiting_models import save_exiting_model
from ray_here import ray_in_this_process

from cluster.assessment import assess as assessing
from cluster.assessment.recipe import REPLAY, Command
from cluster.assessment.record import AssessmentRecord
from eexit.output.display import Lines
from eexit.output.progress import Progress
from eexit.results.layout import ASSESSMENT
from eexit.studies.assessment.verdict import FILE, Verdict
from jobs.assess import COMMANDS as SCRIPTS

pytestmark = pytest.mark.slow  # half a minute of assessments


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, ray_in_this_process(patch, cpus=1):
        make_small(patch)
        yield


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A finished assessment, interrupted in each of its steps."""
    folder = tmp_path_factory.mktemp("assessed")
    save_exiting_model(folder / "model", n_layers=8, sharp=60)
    flags = flags_of(folder / "model", write_prompts(folder / "p.jsonl"), folder / "out")
    at_work, interrupted = list[str](), set[str]()
    show, do = Lines.show, assessing._do

    def doing(command: Command, do_it: assessing.Do, record: AssessmentRecord) -> None:
        at_work.append(command.name)
        do(command, do_it, record)

    def interrupting(self: Lines, progress: Progress, last: bool = False) -> None:
        show(self, progress, last)
        if at_work[-1] not in interrupted and (progress.has_begun or at_work[-1] == REPLAY):
            interrupted.add(at_work[-1])
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lines, "show", interrupting)
        patch.setattr(assessing, "_do", doing)
        while (call := assess_here(*flags)).returncode:
            assert call.returncode == 1, call.stderr
            assert "the same command goes on from there" in call.stderr
    assert interrupted == {*COMMANDS} - {"choice"}, "which takes no time"
    return flags


def test_interrupted_in_each_step_the_verdict_is_that_of_the_printed_commands(flags: list[str], tmp_path: Path) -> None:
    """Called by hand, they leave the same folders."""
    undisturbed = [*flags[:-1], str(tmp_path / "out")]
    dry = assess_here(*undisturbed, "--dry-run")
    first, *lines = dry.stdout.splitlines()
    assert first.startswith(f"{flags[1]} · float32 · weights ")
    assert "core" in first
    assert "threads" in first
    for line in lines:
        _, script, *arguments = shlex.split(line)
        done = here(SCRIPTS[Path(script).stem], *arguments)
        assert done.returncode == 0, done.stderr
    whole = assess_here(*undisturbed)
    assert (whole.returncode, done_by(whole)) == (0, [])
    assert settled(tmp_path / "out") == settled(Path(flags[-1]))
    verdict = Verdict.model_validate_json((tmp_path / "out" / FILE).read_text())
    assert verdict.missing == []
    assert verdict.bound.risk == "disagreement"
    assert (tmp_path / "out" / "run" / FILE).read_text() == (tmp_path / "out" / FILE).read_text()
    assert whole.stdout.count("Does early exit pay?") == 1


LOST = {
    "choices": (["run/choices"], ["choice"]),
    "replays": (["pilot/replays"], ["replay"]),
    "record": ([ASSESSMENT], []),
    "readout": (["linear", ASSESSMENT], ["linear"]),
    "verdicts": ([FILE, f"run/{FILE}"], []),
    "times": (["run/timings"], ["times", "again"]),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_was_lost_is_done_again_in_a_folder_that_was_moved_too(
    flags: list[str], tmp_path: Path, lost: str
) -> None:
    out, (names, again) = tmp_path / "moved", LOST[lost]
    shutil.copytree(flags[-1], out)
    for name in names:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, again), call.stderr
    assert settled(out) == settled(Path(flags[-1]))
    assert settled(out)["setting"]["ask"] == 1


def test_a_damaged_choice_is_made_again(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    (file,) = (out / "run" / "choices").glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, ["choice"]), call.stderr
    assert settled(out) == settled(Path(flags[-1]))


def test_what_is_not_this_assessment_is_refused(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    mine = [*flags[:-1], str(out)]

    def refused(*arguments: str) -> str:
        call = assess_here(*arguments)
        assert call.returncode == 2
        return call.stderr

    for columns in ({"max_new_tokens": 9}, {"prefiller": "So"}, {"kind": "words"}, {"steps": 2}):
        prompts = str(write_prompts(tmp_path / "other.jsonl", **columns))
        assert "holds another assessment (prompts: " in refused(*mine, "--prompts", prompts)
        (out / ASSESSMENT).rename(tmp_path / "record")
        assert "is of other prompts" in refused(*mine, "--prompts", prompts)
        (tmp_path / "record").rename(out / ASSESSMENT)
    assert "holds another assessment (at_most: 0.3 -> 0.2)" in refused(*mine, "--at-most", "0.2")
    for place in ("run/tokens", "run", "linear"):
        assert "choose another place, outside of" in refused(*mine[:-1], str(out / place))
    shutil.move(flags[1], tmp_path / "model")
    save_exiting_model(Path(flags[1]), n_layers=8, sharp=50)  # other weights in the same folder
    assert "is not the one that the sweep had" in refused(*mine)
    shutil.rmtree(flags[1])
    shutil.move(tmp_path / "model", flags[1])
    (out / FILE).write_text("somebody's")
    assert "is not of an assessment of this version: move it" in refused(*mine)
    record = json.loads((out / ASSESSMENT).read_text())
    (out / FILE).unlink()
    (out / ASSESSMENT).write_text(json.dumps(record | {"seconds": {"texts": float("nan")}}))
    assert "is damaged: remove it, and what is finished of the steps is kept" in refused(*mine)
