"""A whole assessment of a tiny model: its commands, and that it goes on whatever ended it and whatever was lost."""

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from assessing import COMMANDS, assess_here, done_by, flags_of, make_small, settled, write_prompts
from byte_model import save_exiting_model
from commands import flip_a_bit, success
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
            assert "the same command resumes" in call.stderr
    assert interrupted == {*COMMANDS} - {"choice"}, "which takes no time"
    return flags


@pytest.fixture
def out(flags: list[str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(flags[-1], tmp_path / "out"))


@pytest.fixture
def mine(flags: list[str], out: Path) -> list[str]:
    return [*flags[:-1], str(out)]


def verdict_in(out: Path) -> Verdict:
    return Verdict.model_validate_json((out / FILE).read_text())


def test_interrupted_in_each_step_the_verdict_is_that_of_the_printed_commands(flags: list[str], tmp_path: Path) -> None:
    undisturbed = [*flags[:-1], str(tmp_path / "out")]
    first, *lines = assess_here(*undisturbed, "--dry-run").stdout.splitlines()
    assert first.startswith(f"{flags[1]} · float32 · weights ")
    for line in lines:
        _, script, *arguments = shlex.split(line)
        success(SCRIPTS[Path(script).stem], *arguments)
    whole = assess_here(*undisturbed)
    assert (whole.returncode, done_by(whole)) == (0, [])
    assert settled(tmp_path / "out") == settled(Path(flags[-1]))
    verdict = verdict_in(tmp_path / "out")
    assert (verdict.missing, verdict.bound.risk) == ([], "disagreement")
    assert all(0 <= cell.lost <= verdict.bound.max_risk + 1e-9 for cell in verdict.cells.values())
    assert (tmp_path / "out" / "run" / FILE).read_text() == (tmp_path / "out" / FILE).read_text()
    assert whole.stdout.count("Does early exit pay?") == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = assess_here(*undisturbed)
    assert (again.returncode, done_by(again), again.stdout) == (0, [], whole.stdout), again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def lose_a_shard(out: Path) -> None:
    shutil.rmtree(out / "pilot" / "replays")
    next((out / "oracles" / "generations").iterdir()).unlink()


def replay_other_results(out: Path) -> None:
    store = open_store(out / "pilot")
    rows = [row | {"results": "0" * 32} for row in REPLAYS.rows(store)]
    shutil.rmtree(out / "pilot" / "replays")
    REPLAYS.publish(store, rows[0]["replay_id"], rows)


def time_no_steps(out: Path) -> None:
    store = open_store(out / "run")
    rows = [row for row in TIMINGS.rows(store) if row["rule"] != "fixed"]
    shutil.rmtree(out / "run" / "timings")
    for call in {row["timing_id"] for row in rows}:
        TIMINGS.publish(store, call, [row for row in rows if row["timing_id"] == call])


TELLING = {"linear", "pilot", "replay", "oracles", "choice", "times"}
LOST: dict[str, tuple[Callable[[Path], object] | Sequence[str], list[str]]] = {  # change or names, and steps
    "choices": (["run/choices"], ["choice"]),
    "replays": (["pilot/replays"], ["replay"]),
    "record": ([ASSESSMENT], []),
    "readout": (["linear", ASSESSMENT], ["linear"]),
    "oracles": (["oracles"], ["oracles"]),
    "verdicts": ([FILE, f"run/{FILE}"], []),
    "times": (["run/timings"], ["times", "again"]),
    "a shard": (lose_a_shard, ["replay", "oracles"]),
    "a bit of the choice": (lambda out: flip_a_bit(next((out / "run" / "choices").glob("*.parquet"))), ["choice"]),
    "what was replayed": (replay_other_results, ["replay"]),
    "steps": (time_no_steps, ["times", "again"]),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_was_lost_is_done_again(mine: list[str], flags: list[str], out: Path, monkeypatch: Any, lost: str) -> None:
    """In a folder that was moved, from another working directory."""
    lose, again = LOST[lost]
    if callable(lose):
        lose(out)
    else:
        for name in lose:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    monkeypatch.chdir(out)
    call = assess_here(*mine[:-1], "../out")
    assert (call.returncode, done_by(call)) == (0, again), call.stderr
    assert call.stderr.count("known so far: ") == len({*again} & TELLING)
    assert settled(out) == settled(Path(flags[-1]))
    assert settled(out)["setting"]["use"] == 1


OF_OUTCOME = ("text", "n_tokens", "finish_reason", "prompt_token_ids", "n_prompt_tokens", "exit_layer_counts")


def fail(folder: Path, configuration: str) -> None:
    """Make an error of the first run of a configuration, as it lands."""
    store = open_store(folder)
    for stem in list_files(store).stems:
        shard = read_generations(store, stem)
        rows, tokens = shard.rows.to_pylist(), read_tokens(store, shard)
        if lost := next((row for row in rows if row["configuration"] == configuration), None):
            kept = tokens.filter(pc.not_equal(tokens["run_id"], lost["run_id"]))
            lost.update({**dict.fromkeys(OF_OUTCOME), "status": "error", "error": "CUDA error: launch failure"})
            publish_shard(store.publish, stem, pa.Table.from_pylist(rows, GENERATIONS), kept, shard.attempt)
            return


def test_failed_runs_are_retried(mine: list[str], flags: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(out / "run", "normal")
    fail(out / "oracles", "unfrozen/agree")
    with monkeypatch.context() as patch:
        patch.setitem(SCRIPTS, "sweep", lambda arguments: 0)  # where they fail again
        call = assess_here(*mine)
    assert (call.returncode, done_by(call)) == (0, ["run", "oracles", "choice"]), call.stderr
    verdict = verdict_in(out)
    assert verdict.missing[:2] == ["1 run of run, which failed", "1 run of oracles, which failed"]
    assert (verdict.pays, verdict.why) == (None, "missing")
    call = assess_here(*mine)
    assert (call.returncode, done_by(call)) == (0, ["run", "oracles", "choice"]), call.stderr
    assert settled(out) == settled(Path(flags[-1]))
    assert not verdict_in(out).missing


def test_several_models_are_assessed_and_compared(flags: list[str], out: Path, tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "other", n_layers=8, early=3, sharp=60)
    both = tmp_path / "both"
    shutil.copytree(out, both / "model")  # which leaves nothing to do for the first one
    call = assess_here("--model", flags[1], tmp_path / "other", *flags[2:-1], both)  # type: ignore[arg-type]
    assert call.returncode == 0, call.stderr
    assert done_by(call) == [*COMMANDS]
    assert verdict_in(both / "other").cells.keys() == {"A", "B", "C", "D"}
    assert call.stdout.count("Does early exit pay?") == 2
    *_, compared = call.stdout.split("Models")
    assert [line.split()[0] for line in compared.splitlines()[3:5]] == ["model", "other"]
    assert call.stdout.splitlines()[-1] == str(both / "compare.html")
    assert (both / "compare.html").is_file()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--max-risk", "0.2"], ["choice"]),
        (["--batch", "2"], ["times", "again"]),
        (["--max-new-tokens", "9"], "holds another sweep (max_new_tokens: 12 -> 9)"),
        (["--dtype", "bfloat16"], 'model.dtype: "float32" -> "bfloat16"'),
    ],
)  # fmt: skip
def test_other_flags_give_no_old_verdict(mine: list[str], out: Path, given: list[str], told: list[str] | str) -> None:
    (out / ASSESSMENT).unlink()
    call = assess_here(*mine, *given)
    if isinstance(told, str):
        assert (call.returncode, done_by(call), told in call.stderr) == (2, [], True), call.stderr
    else:
        assert (call.returncode, done_by(call)[-len(told) :]) == (0, told), call.stderr


def test_what_is_not_this_assessment_is_refused_before_a_step(mine: list[str], out: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        call = assess_here(*arguments)
        assert (call.returncode, done_by(call)) == (2, []), call.stderr
        return call.stderr

    for columns in ({"max_new_tokens": 9}, {"prefiller": "So"}, {"kind": "words"}, {"steps": 2}):
        prompts = str(write_prompts(tmp_path / "other.jsonl", **columns))
        assert "is of other prompts" in refused(*mine, "--prompts", prompts)
    for place in ("run/tokens", "run", "linear"):
        assert "choose another place, outside of" in refused(*mine[:-1], str(out / place))
    shutil.move(mine[1], tmp_path / "model")
    save_exiting_model(Path(mine[1]), n_layers=8, sharp=50)  # other weights in the same folder
    assert "is not the one that the sweep had" in refused(*mine)
    shutil.rmtree(mine[1])
    shutil.move(tmp_path / "model", mine[1])
    card = parse_card((out / "linear" / "card.json").read_bytes())
    write_card(out / "linear", card.model_copy(update={"model": {**card.model, "digest": "sha256:" + "0" * 64}}))
    assert "linear holds another training (model.digest: " in refused(*mine)
    for one, other in (("linear", "swap"), ("kv-maps", "linear"), ("swap", "kv-maps")):
        (out / one).rename(out / other)
    assert "linear holds another training (settings.what: " in refused(*mine)
    (out / FILE).write_text("somebody's")
    assert "is no verdict of this version" in refused(*mine)
