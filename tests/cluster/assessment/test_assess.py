"""A whole assessment of a tiny model: its commands, and that it goes on whatever ended it and whatever was lost."""

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import recompute_cells
from assessing import COMMANDS, assess_here, done_by, flags_of, make_small, settled, write_prompts
from commands import here
from exiting_models import save_exiting_model
from ray_here import ray_in_this_process

from cluster.assessment import assess as assessing
from cluster.assessment.recipe import REPLAY, RecipeStep
from eexit.output.display import PlainDisplay
from eexit.output.progress import Progress
from eexit.plan.artefacts import parse_card, write_card
from eexit.results.layout import ASSESSMENT
from eexit.results.parquet_files import list_files, read_generations, read_tokens
from eexit.results.store.commit import publish_shard
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS, TIMINGS
from eexit.results.tables import GENERATIONS
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
    show, forecast = PlainDisplay.show, assessing.Pace.forecast

    def doing(self: assessing.Pace, steps: Sequence[RecipeStep]) -> str:
        at_work.append(steps[0].name)
        return forecast(self, steps)

    def interrupting(self: PlainDisplay, progress: Progress, last: bool = False) -> None:
        show(self, progress, last)
        if at_work[-1] not in interrupted and (progress.has_begun or at_work[-1] == REPLAY):
            interrupted.add(at_work[-1])
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainDisplay, "show", interrupting)
        patch.setattr(assessing.Pace, "forecast", doing)
        while (call := assess_here(*flags)).returncode:
            assert call.returncode == 1, call.stderr
            assert "the same command resumes from them" in call.stderr
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


def test_cells_recomputed_from_the_files_alone_are_those_of_the_verdict(flags: list[str]) -> None:
    script = Path(recompute_cells.__file__)
    assert "eexit" not in re.findall(r"^(?:from|import) (\w+)", script.read_text(), re.MULTILINE)
    assert recompute_cells.main(Path(flags[-1])) == 0


TELLING = {"linear", "pilot", "replay", "oracles", "choice", "times"}
LOST = {
    "choices": (["run/choices"], ["choice"]),
    "replays": (["pilot/replays"], ["replay"]),
    "record": ([ASSESSMENT], []),
    "readout": (["linear", ASSESSMENT], ["linear"]),
    "oracles": (["oracles"], ["oracles"]),
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
    assert call.stderr.count("known so far: ") == len({*again} & TELLING)
    assert settled(out) == settled(Path(flags[-1]))
    assert settled(out)["setting"]["use"] == 1


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


def test_a_finished_assessment_is_shown_and_nothing_is_written(flags: list[str], tmp_path: Path) -> None:
    """As from a read-only disk, and elsewhere."""
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, []), call.stderr
    assert "Does early exit pay?" in call.stdout
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before


def test_it_goes_on_in_a_folder_that_was_moved_from_another_working_directory(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved" / "out"
    shutil.copytree(flags[-1], out)
    shutil.rmtree(out / "pilot" / "replays")
    assert assess_here(*flags[:-1], str(out)).returncode == 0, "from here on, manifests name this folder"
    moved.parent.mkdir()
    out.rename(moved)
    shutil.rmtree(moved / "pilot" / "replays")
    [*map(Path.unlink, [*(moved / "oracles" / "generations").iterdir()][:1])]
    monkeypatch.chdir(moved)
    call = assess_here(*flags[:-1], "../out")
    assert (call.returncode, done_by(call)) == (0, ["replay", "oracles"]), call.stderr
    assert settled(moved) == settled(Path(flags[-1]))


def fail(folder: Path, configuration: str) -> None:
    """Make an error of the first run of a configuration, as it lands."""
    store = open_store(folder)
    for stem in list_files(store).stems:
        shard = read_generations(store, stem)
        rows = shard.rows.to_pylist()
        lost = [row for row in rows if row["configuration"] == configuration][:1]
        if lost:
            tokens = read_tokens(store, shard)
            kept = tokens.filter(pc.not_equal(tokens["run_id"], lost[0]["run_id"]))
            nothing = {field.name: None for field in GENERATIONS if field.nullable and field.name in OF_OUTCOME}
            lost[0].update(nothing | {"status": "error", "error": "CUDA error: unspecified launch failure"})
            publish_shard(store.publish, stem, pa.Table.from_pylist(rows, GENERATIONS), kept, shard.attempt)
            return


OF_OUTCOME = {"text", "n_tokens", "finish_reason", "prompt_token_ids", "n_prompt_tokens", "exit_layer_counts"}


def test_runs_that_failed_are_tried_again_once_a_call_and_are_missing_then(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    fail(out / "run", "normal")
    fail(out / "oracles", "unfrozen/agree")
    with monkeypatch.context() as patch:
        patch.setitem(SCRIPTS, "sweep", lambda arguments: 0)  # where they fail again
        call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, ["run", "oracles", "choice"]), call.stderr
    verdict = Verdict.model_validate_json((out / FILE).read_text())
    assert verdict.missing[:2] == ["1 run of run, which failed", "1 run of oracles, which failed"]
    assert (verdict.pays, verdict.why) == (None, "missing")
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, ["run", "oracles", "choice"]), call.stderr
    assert settled(out) == settled(Path(flags[-1]))
    assert not Verdict.model_validate_json((out / FILE).read_text()).missing


def test_replays_of_other_results_are_made_again(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    store = open_store(out / "pilot")
    rows = [row | {"results": "0" * 32} for row in REPLAYS.rows(store)]
    shutil.rmtree(out / "pilot" / "replays")
    REPLAYS.publish(store, rows[0]["replay_id"], rows)
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, ["replay"]), call.stderr


def test_times_without_steps_are_not_done(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    store = open_store(out / "run")
    rows = [row for row in TIMINGS.rows(store) if row["rule"] != "fixed"]
    shutil.rmtree(out / "run" / "timings")
    for call in {row["timing_id"] for row in rows}:
        TIMINGS.publish(store, call, [row for row in rows if row["timing_id"] == call])
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (0, ["times", "again"]), call.stderr


def test_artefacts_that_were_swapped_or_are_of_another_model_are_refused_before_a_step(
    flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    for one, other in (("linear", "swap"), ("kv-maps", "linear"), ("swap", "kv-maps")):
        (out / one).rename(out / other)
    call = assess_here(*flags[:-1], str(out))
    assert (call.returncode, done_by(call)) == (2, []), call.stderr
    assert "linear holds another training (settings.what: " in call.stderr
    assert "goes on" not in call.stderr
    shutil.rmtree(out)
    shutil.copytree(flags[-1], out)
    card = parse_card((out / "linear" / "card.json").read_bytes())
    write_card(out / "linear", card.model_copy(update={"model": {**card.model, "digest": "sha256:" + "0" * 64}}))
    assert "linear holds another training (model.digest: " in assess_here(*flags[:-1], str(out)).stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--max-risk", "0.2"], ["choice"]),
        (["--batch", "2"], ["times", "again"]),
        (["--max-new-tokens", "9"], "holds another sweep (max_new_tokens: 12 -> 9)"),
        (["--exit-layers", "2", "4"], "holds another sweep (exit_layers: [2, 4, 5] -> [2, 4])"),
        (["--system", "Be brief."], 'holds another sweep (system: "" -> "Be brief.")'),
        (["--dtype", "bfloat16"], 'model.dtype: "float32" -> "bfloat16"'),
    ],
)  # fmt: skip
def test_other_flags_never_give_the_old_verdict(
    flags: list[str], tmp_path: Path, given: list[str], told: list[str] | str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(flags[-1], out)
    (out / ASSESSMENT).unlink()
    call = assess_here(*flags[:-1], str(out), *given)
    if isinstance(told, str):
        assert (call.returncode, done_by(call)) == (2, []), call.stderr
        assert told in call.stderr
    else:
        assert (call.returncode, done_by(call)[-len(told) :]) == (0, told), call.stderr


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
        assert "is of other prompts" in refused(*mine, "--prompts", prompts)
    for place in ("run/tokens", "run", "linear"):
        assert "choose another place, outside of" in refused(*mine[:-1], str(out / place))
    shutil.move(flags[1], tmp_path / "model")
    save_exiting_model(Path(flags[1]), n_layers=8, sharp=50)  # other weights in the same folder
    assert "is not the one that the sweep had" in refused(*mine)
    shutil.rmtree(flags[1])
    shutil.move(tmp_path / "model", flags[1])
    (out / FILE).write_text("somebody's")
    assert "is no verdict of this version: move it" in refused(*mine)
