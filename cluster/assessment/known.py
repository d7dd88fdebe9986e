"""What is known after a step, in a line: nobody waits blind for the verdict."""

from collections.abc import Sequence
from pathlib import Path

from cluster.assessment.prompt_splits import PILOT, RUN
from cluster.assessment.recipe import CHOICE, DEPLOYED, LINEAR, ORACLES, REPLAY, TIMES, Recipe
from eexit.output.text import percent
from eexit.plan.artefacts import CARD, parse_card
from eexit.plan.configuration import EarlyExit
from eexit.results.finished_sweep import read_finished
from eexit.studies.assessment.conclude import AssessmentSteps, conclude, latest_choice
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import EXACT, ORACLE, Pilot, PredictedSetting, neighbours
from eexit.studies.timing.calls import Times


def known_after(step: str, recipe: Recipe, bound: Bound) -> str:
    """Return what a step that is done says of the answer; empty where it says nothing."""
    max_risk = percent(bound.max_risk)
    if step == LINEAR:
        card = parse_card(Path(recipe.at(LINEAR), CARD).expanduser().read_bytes())
        agree = [f"{percent(row.agreement, 0)} at {row.layer}" for row in card.table if row.series == LINEAR]
        return f"layers agree with the final one on {', '.join(agree)}"
    if step == PILOT:
        pilot = Pilot.read(recipe.at(PILOT), bound.risk, bound.max_risk)
        saved = pilot.sweep.saved(EarlyExit(EXACT, ORACLE).key, "macs_to_exit")
        return f"A about {percent(saved.mean, 0)}, B about {_within(pilot.oracles, bound)}, if {max_risk} may be lost"
    if step == REPLAY:
        pilot = Pilot.read(recipe.at(PILOT), bound.risk, bound.max_risk)
        cells = [_within(pilot.candidates(mode), bound) for mode in (EXACT, DEPLOYED)]
        return f"predicted: C about {cells[0]}, D about {cells[1]}, if {max_risk} may be lost"
    if step == ORACLES:
        verdict = conclude(AssessmentSteps(recipe.at(PILOT), recipe.at(RUN), recipe.at(ORACLES)), bound, recipe.batch)
        return ", ".join(f"{cell.name} {percent(cell.saved.mean)}" for cell in verdict.cells)
    if step not in (CHOICE, TIMES):
        return ""
    run = read_finished(recipe.at(RUN), ("status",))
    choice = latest_choice(run, bound)
    setting = choice["configuration"] if choice else None
    if step == CHOICE:
        return f"{setting} is certified" if setting else "no setting is certified"
    fastest = Times([row for row in run.timings if row["batch"] == recipe.batch], setting).fastest
    return f"the fastest alternative is {fastest or 'full depth'}, by one call"


def _within(settings: Sequence[PredictedSetting], bound: Bound) -> str:
    """Return what the safer neighbour saves, which loses less than the bound."""
    safe = neighbours(settings, bound.max_risk).safe
    return percent(next((each.saved for each in settings if each.key == safe), 0.0), 0)
