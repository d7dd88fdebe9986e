"""The ten commands of the recipe, and how long they take."""

from dataclasses import replace
from pathlib import Path

from cluster.assessment.assess import Pace
from cluster.assessment.prompt_splits import RUN, TRAINING, drawn, sizes_at
from cluster.assessment.recipe import REPLAYED, Recipe
from cluster.console.flags_from_config import load_job
from eexit.plan.exit_layers import with_layer_between
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import EXACT
from jobs.sweep import DEMO

NAMES = ("texts", "linear", "kv-maps", "pilot", "replay", "run", "oracles", "choice", "times", "again")
BOUND = Bound(risk="answers", max_risk=0.02)


def recipe(out: str) -> Recipe:
    parts = drawn(sizes_at(0.02), 151, 0)
    return Recipe(out, parts, (5, 10, 15, 20, 23, 25), ["--model", "smollm2-135m"], [], [], 32, screens=True)


def test_each_sweep_has_the_prompts_of_its_part(tmp_path: Path) -> None:
    """But for what earlier commands leave: what is learned, and the settings that are run."""
    made = recipe(str(tmp_path / "out"))
    made.parts.write(made.out)
    commands = made.commands(BOUND)
    assert tuple(each.name for each in commands) == NAMES
    of_smoke_run = replace(made, is_smoke_run=True).commands(BOUND)
    for (times, again), (rounds, calls) in ((commands[-2:], ("8", "24")), (of_smoke_run[-2:], ("2", "6"))):
        assert (f"--rounds {rounds}" in times.line, f"--calls {calls}" in again.line) == (True, True)
    for each in [each for each in commands if each.script == "sweep"]:
        aside = {"--readout", "--kv-maps", "--settings-from-replay", "--within"}
        kept = [text for at, text in enumerate(each.arguments) if not aside & {text, each.arguments[at - 1]}]
        plain = [text for text in kept if not text.startswith("mapped_residual")]
        plain += ["--rules", "confidence=0.9"] if each.name == RUN else []
        job, _ = load_job(plain, DEMO)
        part = {"texts": TRAINING, "oracles": RUN}.get(each.name, each.name)
        assert (job.out, len(job.config.prompts)) == (each.folder, len(made.parts.of[part]))
    assert with_layer_between((5, 10, 15, 20, 25)) == tuple(made.layers)
    assert len(made.keys(EXACT, REPLAYED)) == 20 * 4


def test_the_time_left_is_told_by_the_tokens_per_second_of_the_steps_before(tmp_path: Path) -> None:
    commands = recipe(str(tmp_path / "out")).commands(BOUND)
    assert Pace().forecast(commands) == ""
    seconds = sum(each.tokens for each in commands[1:]) / 100
    pace = Pace(tokens=commands[0].tokens, working=commands[0].tokens / 100, loading=20.0)
    n_loads = 8 - 1 + 24  # a choice loads none, and each further call does
    told = f" ({round((seconds + 20 * n_loads) / 60)} minutes left at 100 tokens per second)"
    assert pace.forecast(commands[1:]) == told, "what loads is not taken for what actors do"
