"""Conclusion of an assessment: whether early exit pays, and the cause if it doesn't.

*Yes*: a setting is certified, its test loss is not beyond the bound, it runs fewer multiply-adds (per right answer too,
with thinking), and it takes less time. *No*: one of these intervals lies on the wrong side. *Not known*: one has both
sides in it. The cause certainly gains most if it alone is fixed, by a point: the mode (C − D), the knowledge (B − D),
deciding (D less the saving as run) or proof (the latter less the certified saving). It is the ceiling where A itself is
small, and batches or overhead where multiply-adds are saved and time is not.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eexit.output.text import describe_precision, pluralize
from eexit.plan.configuration import GENERATE, mode_of
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import COST_RUN
from eexit.quality.estimates import NOTHING, Estimate
from eexit.quality.intervals import clopper_pearson
from eexit.quality.power import n_to_exclude
from eexit.quality.risks import RISKS
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.studies.assessment.cells import AS_RUN, CELLS, COSTS, COSTS_OF, GAINS, A, Attribution, PromptTable, Weights
from eexit.studies.assessment.verdict import CAUSES, AlternativeTime, Bound, Cell, JudgedSetting, Verdict
from eexit.studies.replay.shortlist import CellSettings, Pilot
from eexit.studies.selection.study import latest_choice
from eexit.studies.timing.calls import BatchTimings, TimeGaps

SMALL: Final = 0.05  # a ceiling below this share of full depth is itself the cause
MARGIN: Final = 0.01  # of full depth, by which a cause gains more than the others
Row = Mapping[str, Any]
Answer = tuple[str, int | None]  # a key of `REASONS`, and the number that would decide an open answer


def conclude(
    folders: Sequence[str], bound: Bound, batch: int = 1, missing: Sequence[str] = (), is_smoke_run: bool = False
) -> Verdict:
    """Return the verdict on an assessment by the folders of its pilot, run and oracles.

    Raises `UsageError` where a folder has no finished sweep, and where two of them have different models.
    """
    pilot, *others = folders
    identity = ("prompt_id", "prompt", "configuration", "seed", "status", "exit_layer_counts")
    columns = tuple(dict.fromkeys([*identity, *COSTS, RISKS[bound.risk].column, *OF_RIGHT]))
    sweeps = [read_finished(folder, columns) for folder in others]
    picked = Pilot.read(pilot, bound.risk, bound.max_risk)
    for other in (sweeps[1], picked.sweep):
        refuse_changed_model(other, sweeps[0].manifest.model)
    choice, timings = latest_choice(sweeps[0].store, bound.risk, bound.max_risk, bound.confidence), sweeps[0].timings
    return verdict_of(sweeps, picked.cells, choice, timings, bound, batch, missing, is_smoke_run)


def verdict_of(
    sweeps: Sequence[FinishedSweep], settings: CellSettings, choice: Row | None, timings: Sequence[Row], bound: Bound,
    batch: int, missing: Sequence[str] = (), is_smoke_run: bool = False,
) -> Verdict:  # fmt: skip
    """Return the verdict, from the sweeps of the steps run and oracles, the selection and the timings."""
    table, run = PromptTable(sweeps, bound.risk), sweeps[0]
    setting = _judged_setting(run, choice) if choice else None
    attribution = Attribution(table, settings, bound.max_risk, setting.key if setting and setting.certified else None)
    times = BatchTimings(timings, batch, setting.key if setting and keeps(setting, bound) else None)
    gaps = None
    if setting:
        setting = setting.model_copy(update={"time": times.relative_time(setting.key)})
        share = dict(zip(run.exit_layers_G, run.exit_share_G(setting.key), strict=True))
        gaps = BatchTimings(timings, batch, setting.key).gaps(share, run.n_layers)
    missing = [*missing, *([] if choice else ["choice"]), *([] if times.are_whole else ["times"])]
    why, needed = judge(setting, attribution.estimate({AS_RUN: 1}), choice, bound, missing, is_smoke_run)
    keys = dict.fromkeys(key for key in (setting and setting.key, GENERATE, times.fastest) if key)
    timed = {
        key: AlternativeTime(time=time, of_generate=times.relative_time(key, GENERATE))
        for key in keys
        if (time := times.relative_time(key)).n
    }
    return Verdict(
        why=why,
        causes=_causes(attribution, gaps, why),
        needed=needed,
        missing=missing,
        bound=bound,
        batch=batch,
        where=_where(run, timings, batch),
        setting=setting,
        cells={name: _cell(attribution, name) for name in CELLS} if table.n else {},
        gains={name: attribution.estimate(weights) for name, weights in GAINS.items()},
        costs={name: attribution.estimate(weights) for name, weights in COSTS_OF.items()},
        gaps=({"batches": gaps.batches} if batch > 1 else {}) | {"overhead": gaps.overhead} if gaps else {},
        timed=timed,
    )


def judge(
    setting: JudgedSetting | None, as_run: Estimate, choice: Row | None, bound: Bound, missing: Sequence[str],
    is_smoke_run: bool,
) -> Answer:  # fmt: skip
    """Return the answer and, if it is open, the number of prompts or calls that would decide it.

    It follows from the setting's intervals; `as_run` is the saving within the bound, for a setting that is not
    certified.
    """
    if is_smoke_run:
        return "look", None
    if missing or setting is None or choice is None:
        return "missing", None
    if not setting.certified:
        losses = [clopper_pearson(each["mean_loss"] * each["n"], each["n"])[0] for each in choice["tested"]]
        if min(losses) > bound.max_risk:
            return "loses too much", None
    elif not keeps(setting, bound):
        return "not kept", None
    saved, per_right, time = setting.saved, setting.per_right, setting.time
    if not setting.certified or saved.is_below(0):
        enough = [n for each in choice["tested"] if not each["certified"] and (n := each["prompts_needed"])]
        return ("costs more", None) if as_run.is_below(0) else ("not certified", min(enough, default=None))
    if per_right.is_above(1):
        return "dear answers", None
    if not saved.is_above(0):
        return "costs open", n_to_exclude(0, saved)
    if time.is_above(1):
        return "slower", None
    if per_right.n and not per_right.is_below(1):
        return "answers open", n_to_exclude(1, per_right)
    if math.isnan(time.high):
        return "not timed", None
    return ("pays", None) if time.is_below(1) else ("time open", n_to_exclude(1, time))


def keeps(setting: JudgedSetting, bound: Bound) -> bool:
    """Return True if the setting is certified, and its test loss is not certainly beyond the bound."""
    return setting.certified and not setting.test_loss.is_above(bound.max_risk)


def _causes(attribution: Attribution, gaps: TimeGaps | None, why: str) -> list[str]:
    """Return the certain cause, or all possible causes if none is certain; nothing without a cause to name."""
    if why in ("pays", "missing", "not timed", "time open"):
        return []
    if why == "slower" and gaps:
        if gaps.difference.is_above(MARGIN) and gaps.batches.is_above(MARGIN):
            return ["batches"]
        is_overhead = gaps.difference.is_below(-MARGIN) and gaps.overhead.is_above(MARGIN)
        return ["overhead" if is_overhead else "time"]

    def is_more(one: Weights, other: Weights) -> bool:
        return attribution.is_above({of: one.get(of, 0) - other.get(of, 0) for of in {*one, *other}}, MARGIN)

    if attribution.is_above({A: -1}, -SMALL):
        return ["ceiling"]
    gains = {name: gain for name, gain in GAINS.items() if name in CAUSES}
    may_be = [name for name, gain in gains.items() if not any(is_more(other, gain) for other in gains.values())]
    if not attribution.is_above({A: 1}, SMALL):
        return ["ceiling", *may_be]
    return may_be if len(may_be) > 1 or attribution.is_above(gains[may_be[0]], MARGIN) else []


def _judged_setting(run: FinishedSweep, choice: Row) -> JudgedSetting:
    chosen = [each for each in choice["tested"] if each["configuration"] == choice["configuration"]]
    tested = (chosen or sorted(choice["tested"], key=lambda each: (each["mean_loss"], each["cost"])))[0]
    key, per_right, n = tested["configuration"], run.per_right, choice["reporting_n"] if chosen else 0
    mean = choice["reporting_mean_loss"]
    all_prompts = "prompts" if tested.get("n_of_prompts") is None else "groups"
    populations = {all_prompts: "", "prompts of groups": "_of_prompts", "right answers": "_of_right"}
    names = {population: (f"{'' if end else 'mean_'}loss{end}", f"n{end}") for population, end in populations.items()}
    return JudgedSetting(
        key=key,
        certified=tested["certified"],
        use=choice["question"] or 1,
        losses={population: (tested[loss], tested[n]) for population, (loss, n) in names.items() if tested.get(n)},
        test_loss=Estimate(mean, *clopper_pearson(mean * n, n), n) if n else NOTHING,
        saved=run.saved(key, COST_RUN),
        per_right=per_right[key][COST_RUN].beside_normal if key in per_right else NOTHING,
    )


def _cell(attribution: Attribution, name: str) -> Cell:
    (safe, bold), (safe_share, bold_share, lost) = getattr(attribution.settings, name), attribution.mixture(name)
    return Cell(mode=mode_of(bold), saved=attribution.estimate({name: 1}), lost=lost, safe=safe, safe_share=safe_share,
                bold=bold, bold_share=bold_share)  # fmt: skip


def _where(run: FinishedSweep, timings: Sequence[Row], batch: int) -> str:
    model, manifest = run.manifest.model, run.manifest
    digest = (model.get("digest") or "").removeprefix("sha256:")[:12]
    machine = [f"{row['machine']} · {pluralize(row['threads'], 'thread')}" for row in timings[-1:]]
    model_parts = [manifest.config["model"], describe_precision(model, manifest.dtype_asked), digest]
    return " · ".join(filter(None, [*model_parts, *machine, f"{pluralize(batch, 'sequence')} at a time"]))
