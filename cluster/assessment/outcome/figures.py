"""What is judged of an assessment, from the tables of its steps: nothing is measured here, and nothing is decided."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cluster.assessment.learned import DEPLOYED, ORACLE, UNALTERED
from cluster.assessment.outcome.ledger import LedgerOptions
from cluster.assessment.outcome.tables import FirstLook, PromptFigures, contender_of, saved_at_prices, times
from cluster.assessment.outcome.verdict import (
    BEST,
    CEILING,
    CONTROL,
    DRAFT,
    TRIED,
    Bound,
    Contender,
    Figures,
    Loss,
    Texts,
)
from cluster.assessment.outcome.verdict import GENERATE as GENERATE_ROLE
from eexit.method.rules import ONLINE
from eexit.plan.configuration import GENERATE, VARIANTS, Exit, Generate
from eexit.results.finished_sweep import FinishedSweep
from eexit.studies.choosing.study import choices_made
from eexit.studies.other_models import KNOWN

AT_PRICES_OF: Final = ("llama-2-7b", "llama-3-8b")
CEILING_KEY: Final = Exit(UNALTERED, ORACLE).key

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AssessmentTables:
    """What the steps left: the first look, the pilot's oracles by readout, its settings, and the run; None where
    nothing was worth one. What could be taken instead: drafts, on the prompts for choosing or on the pilot.
    """

    look: FirstLook
    ceilings: Sequence[FinishedSweep]
    tried: Sequence[FinishedSweep]
    run: FinishedSweep | None
    drafts: FinishedSweep | None = None


def figures_of(steps: AssessmentTables, bound: Bound, batches: Sequence[int]) -> Figures:
    """All that is judged."""
    look, run = steps.look, steps.run
    in_exact_state = [each for each in steps.ceilings if CEILING_KEY in each.done]
    ceiling = max(in_exact_state, key=lambda each: saved_by_exits(each, CEILING_KEY, look))
    choice = latest_choice(run) if run else None
    best, others = _tested(run, choice, look) if run and choice else (_nearest_tried(steps, bound), [])
    timed_in = run if run and best and best.times else look.sweep  # times of one call, where they are beside others
    n_tried = len(choice["tested"]) if choice else sum(len(_deployed(each)) for each in steps.tried)
    return Figures(
        bound=bound,
        batches=batches,
        head_in_layers=look.head_in_layers,
        possible=look.possible,
        options=_options(steps, ceiling, best, bound),
        ceiling=of_oracle(ceiling, look),
        agrees_early=1 - ceiling.exit_share_G(CEILING_KEY)[-1],
        best=best,
        others=others,
        were_timed=bool(steps.drafts and times(steps.drafts, GENERATE)),
        alternatives=_lossless(steps, timed_in),
        n_tried=n_tried,
        elsewhere=_elsewhere([*([run] if run else []), *steps.tried], best),
        ask=int(choice["question"] or 1) if choice else 1,
    )


def saved_by_exits(sweep: FinishedSweep, key: str, look: FirstLook) -> float:
    """What a configuration's exits save by themselves, if deciding them and writing keys and values were free."""
    return sum(
        share * look.saved_at[layer] for layer, share in zip(sweep.exit_layers_G, sweep.exit_share_G(key), strict=True)
    )


def _options(steps: AssessmentTables, ceiling: FinishedSweep, best: Contender | None, bound: Bound) -> LedgerOptions:
    """What could be taken: the oracles on the pilot, the settings on the pilot and in the run, and the proven one."""

    def prompts(sweep: FinishedSweep) -> PromptFigures:
        return PromptFigures(sweep, [steps.look.saved_at[layer] for layer in sweep.exit_layers_G], bound.risk)

    top = prompts(ceiling).option(CEILING_KEY)
    in_state = [each for sweep in steps.ceilings for each in prompts(sweep).options(_oracles(sweep))]
    runs = [*steps.tried, *([steps.run] if steps.run else [])]
    online = [each for sweep in runs for each in prompts(sweep).options(_deployed(sweep))]
    proven = prompts(steps.run).proven(best, steps.look.steps) if steps.run and best and best.is_proven(bound) else None
    return LedgerOptions(top, in_state, online, proven)


def _oracles(sweep: FinishedSweep) -> list[str]:
    """The oracle's configurations in the states that are deployed."""
    entries = sweep.manifest.configurations
    return [entry["key"] for entry in entries if entry["mode"] in DEPLOYED and entry["rule"] == ORACLE]


def _deployed(sweep: FinishedSweep) -> list[str]:
    """The settings of a sweep that a deployed model could follow; controls are none."""
    entries = sweep.manifest.configurations
    return [entry["key"] for entry in entries if entry["rule"] in ONLINE]


def of_oracle(ceiling: FinishedSweep, look: FirstLook) -> Contender:
    """What the oracle would save in exact state, by its exits alone."""
    found = contender_of(ceiling, CEILING_KEY, CEILING, look.steps)
    return replace(found, theory=saved_by_exits(ceiling, CEILING_KEY, look), run=math.nan)


def _tested(run: FinishedSweep, choice: Row, look: FirstLook) -> tuple[Contender, list[Contender]]:
    """The best setting of a choice; its control, and others that were tested."""
    tested, key = {setting["configuration"]: setting for setting in choice["tested"]}, _best(choice)
    controls = controls_by_setting(run)
    beside = [contender_of(run, controls[key], CONTROL, look.steps)] if key in controls else []
    others = [
        _settled(contender_of(run, other, TRIED, look.steps), setting, choice)
        for other, setting in tested.items()
        if other != key
    ]
    return _settled(contender_of(run, key, BEST, look.steps), tested[key], choice), [*beside, *others[:2]]


def _nearest_tried(steps: AssessmentTables, bound: Bound) -> Contender | None:
    """Of what was tried on the pilot, where nothing was worth a test, what loses least, and then what saves most."""
    tried = []
    for sweep in steps.tried:
        prompts = PromptFigures(sweep, [0.0] * len(sweep.exit_layers_G), bound.risk)
        for key in _deployed(sweep):
            found = contender_of(sweep, key, BEST, steps.look.steps)
            tried.append((prompts.loss(key).mean, replace(found, of_right=prompts.loss_of_right(key))))
    return min(tried, key=lambda each: (each[0], -each[1].run), default=(0.0, None))[1]


def _elsewhere(sweeps: Sequence[FinishedSweep], best: Contender | None) -> dict[str, float]:
    """Saved by what was run, at the prices of other models, by their names; by the first sweep that has the setting."""
    there = next((each for each in sweeps if best and best.key in each.done), None)
    saved = {name: saved_at_prices(there, best.key, name) if there and best else math.nan for name in AT_PRICES_OF}
    return {KNOWN[name].name: share for name, share in saved.items() if math.isfinite(share)}


def latest_choice(sweep: FinishedSweep) -> Row | None:
    """The row of the latest choice that came to an end."""
    return next(reversed(choices_made(sweep.store)), None)


def to_time(sweep: FinishedSweep, choice: Row) -> list[str]:
    """The settings whose time decides: the best one, and its control where there is one."""
    best, controls = _best(choice), controls_by_setting(sweep)
    return [best, *([controls[best]] if best in controls else [])]


def controls_by_setting(sweep: FinishedSweep) -> dict[str, str]:
    """The keys of controls, by those of the settings whose exit layers they follow."""
    entries = sweep.manifest.configurations
    return {entry["control_of"]: entry["key"] for entry in entries if entry["control_of"]}


def _best(choice: Row) -> str:
    """The chosen setting; else the cheapest certified one; else the one that loses least."""
    if choice["configuration"]:
        return str(choice["configuration"])
    certified = [setting for setting in choice["tested"] if setting["certified"]]
    pool, key = (certified, "cost") if certified else (choice["tested"], "mean_loss")
    return str(min(pool, key=lambda setting: (setting[key], setting["cost"]))["configuration"])


def _settled(contender: Contender, tested: Row, choice: Row) -> Contender:
    """With its losses: on the prompts for choosing, and on those for reporting where it was chosen."""
    loss = Loss(tested["mean_loss"], tested["n"]) if tested["n"] else None
    right = tested.get("n_of_right")
    settled = replace(
        contender,
        loss=loss,
        of_right=Loss(tested["loss_of_right"], right) if right else None,
        certified=tested["certified"],
        texts=Texts(*(tested.get(name) for name in Texts._fields)),
        would_do=tested["prompts_needed"],
    )
    if contender.key != choice["configuration"] or choice["reporting_mean_loss"] is None:
        return settled
    return replace(
        settled,
        reporting=Loss(choice["reporting_mean_loss"], choice["reporting_n"]),
        confirmed=choice["reporting_p_value"] <= 1 - choice["confidence"],
    )


def _lossless(steps: AssessmentTables, timed_in: FinishedSweep) -> list[Contender]:
    """Drafts that were timed, whose texts are those of full depth, and transformers' own `generate`, each with its
    latest times.
    """
    drafts = steps.drafts or steps.look.sweep
    own = _generate(drafts) or _generate(timed_in) or _generate(steps.look.sweep)
    keys = [entry["key"] for entry in drafts.manifest.configurations if entry["draft_length"] is not None]
    return [*(contender_of(drafts, key, DRAFT, steps.look.steps) for key in keys if times(drafts, key)), *own]


def _generate(timed_in: FinishedSweep) -> list[Contender]:
    """Transformers' own, plain and with its lookup."""
    keys = [GENERATE, *(Generate(variant=variant).key for variant in VARIANTS)]
    return [Contender(key, GENERATE_ROLE, times=found) for key in keys if (found := times(timed_in, key))]
