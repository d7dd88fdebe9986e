"""The sections of FINDINGS.md: each a table of the study or two, and what follows from it.

What an outcome is called is decided by `words`, as PLAN.md said beforehand.
"""

from functools import cache
from typing import Final

import pandas as pd

from cluster.assessment.outcome.figures import AssessmentTables, figures_of
from cluster.assessment.outcome.tables import FirstLook, SweepFigures
from cluster.assessment.outcome.verdict import Bound, Verdict, judge
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import Estimate, ValueKind
from eexit.quality.intervals import mcnemar
from findings import words
from findings.study import (
    DTYPES,
    FIRST,
    HOME,
    LATEST,
    LONG,
    LOOK,
    MAPPED,
    PILOT,
    READOUT,
    STUDY,
    TRIED,
    StudySweep,
    card,
    mean_of,
)
from findings.words import p_of, percent_of, points_of, rows_at, share_of, table_of, times_of

BATCHES: Final = (1, 8)  # with which the times of steps were measured
LINES: Final = {
    "state": "what exits leave behind: the oracle in the better of both states",
    "knowing": "knowing where: online rules, by their mean loss",
    "proof": "proof: what is certified",
    "deciding": "deciding, and keys and values",
    "batches": "what steps allow rows that leave one by one",
    "overhead": "what the clock says",
}


@cache
def sweep(name: str) -> StudySweep:
    return StudySweep(name)


@cache
def setting(what: str = LATEST) -> str:
    """The one setting that was announced."""
    [key] = sweep(f"{what}-{DTYPES[0]}").settings
    return key


@cache
def certificates(what: str = LATEST) -> dict[str, str]:
    """What the choice is called, by dtype."""
    return {dtype: words.certificate(*_tested(what, dtype), _lost(what, dtype)) for dtype in DTYPES}


@cache
def figures(name: str = f"{LATEST}-{DTYPES[0]}") -> SweepFigures:
    """What an assessment would read of a sweep, by default of the latest run in float32."""
    return SweepFigures.read(str(STUDY / name))


@cache
def verdict(dtype: str) -> Verdict:
    """That of an assessment with these tables: oracles and settings of the pilot, and the latest run."""
    ceilings, tried = ([figures(name) for name in names] for names in ((PILOT, MAPPED), TRIED))
    tables = AssessmentTables(FirstLook(figures(LOOK)), ceilings, tried, figures(f"{LATEST}-{dtype}"))
    return judge(figures_of(tables, Bound("answers", words.AT_MOST, 0.95), BATCHES))


def title() -> str:
    manifest = sweep(PILOT).finished.manifest
    machine = figures().timing(setting())[0]["machine"]
    return f"""
# Does early exit pay on a small language model?

SmolLM2-135M-Instruct ({manifest.model["n_layers"]} layers), greedy, {machine}. In brackets: 95 % intervals over
prompts. [PLAN.md](PLAN.md) asks two questions, each committed before it ran: it names the settings, the prompts, the
tests and what each outcome is called. Every number here is computed from the tables in [study/](study) by
`python jobs/bench findings`, and a test does so again. [study.html](study.html) is the report of an older sweep, of
prompts by hand.
"""


def answer() -> str:
    saved, run, times = sweep(f"{LATEST}-float32").saved(setting()), verdict("float32"), figures().times(setting())
    fastest = min(times, key=lambda batch: times[batch].high)
    return f"""
## The verdict

**{words.pays(saved, certificates(), times[fastest].high)}.** {words.holds(certificates())}:
the setting is `{setting()}`, and for a loss of at most {percent_of(words.AT_MOST)} of the prompts, it is called
{_named(LATEST)}. It {words.saving(saved)}: it runs {share_of(saved)} fewer multiply-adds than full depth in float32,
deciding included, and takes {times_of(times[fastest])} as long with {rows_at(fastest)}, where it is fastest. What takes
most of what an oracle's exits would save is *{run.ledger.cause}*.
"""


def summary() -> str:
    """What README says of the study."""
    saved, run = sweep(f"{LATEST}-float32").saved(setting()), verdict("float32")
    timed = figures().times(setting())
    times = ", ".join(f"{times_of(time)} as long with {rows_at(batch)}" for batch, time in timed.items())
    line = run.ledger.line(run.ledger.cause)
    return f"""
- The setting `{setting()}` computes {share_of(saved)} less than full depth, counted in multiply-adds. It takes {times}.
  Cheap readings of few layers decide where a token leaves, and trained maps make the keys and values of the layers that
  it skips.
- That it gets at most {percent_of(words.AT_MOST)} of the prompts wrong that full depth gets right is {_named(LATEST)}.
- How much could be saved? An oracle, which knows what full depth will say and leaves as soon as a layer says the same,
  would save {share_of(run.ledger.ceiling)}. The largest part of that, {share_of(line.taken) if line else "nothing"}, is
  lost to *{run.ledger.cause}* ([what that is](reports/sample/FINDINGS.md#where-an-oracles-savings-go)).
"""


def announced() -> str:
    return f"""
## The announced test

One setting, `{setting()}`, was asked of the same prompts in both dtypes, so that the two asks share the error;
the choice keeps a part of it back for asks that were not planned.

{_asked(LATEST)}
"""


def first_question() -> str:
    return f"""
## The first question

It was asked of other prompts, before there were maps, with `{setting(FIRST)}`: {_named(FIRST)}.

{_asked(FIRST)}
"""


def by_kind() -> str:
    rows, runs = [], [sweep(f"{LATEST}-{dtype}") for dtype in DTYPES]
    for kind in sorted(set(runs[0].runs.kind)):
        differences = [run.beside_normal(setting(), run.runs.kind == kind) for run in runs]
        rows.append([kind, str(differences[0].count()), *map(gained_and_lost, differences)])
    return f"""
## By kind of prompt

Prompts that the setting gets right and full depth does not, and the other way round.

{table_of(["kind", "prompts", *(f"{dtype}: gained, lost" for dtype in DTYPES)], rows)}
"""


def ledger() -> str:
    first = verdict(DTYPES[0])
    oracle = ["the oracle `agree`, in exact state", "", share_of(first.ledger.ceiling), f"`{first.ledger.ceiling_key}`"]
    restricted = [
        [LINES[line.restriction], share_of(line.taken), percent_of(line.left), f"`{line.key or 'full depth'}`"]
        for line in first.ledger.lines
    ]
    causes = {dtype: verdict(dtype).ledger.cause for dtype in DTYPES}
    same = len(set(causes.values())) == 1
    each = " and ".join(sorted(f"in {dtype}, *{cause}*" for dtype, cause in causes.items()))
    largest_is = f"*{first.ledger.cause}*, in both dtypes" if same else each
    beyond = first.figures.possible - first.ledger.ceiling.mean
    return f"""
## Where an oracle's savings go

In float32, as shares of full depth: each line is what the next restriction takes, at a loss of at most
{percent_of(words.AT_MOST)}. Oracles and settings are those of the pilot ({sweep(PILOT).n_prompts} prompts).

{table_of(["restriction", "takes", "left", "by"], [oracle, *restricted])}

The largest line is {largest_is}. What leaving at the first layer would save beyond the oracle, {percent_of(beyond)}, is
the model's: its tokens do not agree with full depth there. A read of the head costs
{first.figures.head_in_layers:.1f} layers of this model.
"""


def long_texts() -> str:
    parts = []
    for dtype in DTYPES:
        run, longer = sweep(f"{FIRST}-{dtype}"), sweep(f"{LONG}-{dtype}")
        growth = longer.grows_beside(run, setting(FIRST))
        parts.append(
            f"In {dtype}, {words.growth(growth)}: disagreement is {points_of(growth, digits=2)} points higher than in "
            f"the first tokens of the same prompts, and {share_of(longer.changed(setting(FIRST)))} of the texts change "
            f"({share_of(run.changed(setting(FIRST), longer.runs.unit))} of the short ones)."
        )
    longest, run = sweep(f"{LONG}-float32"), sweep(f"{FIRST}-float32")
    return f"""
## Longer texts

{longest.n_prompts} prompts of the first question once more, with its setting and up to {_most_tokens(longest)} tokens
instead of {_most_tokens(run)} ({longest.mean(NORMAL):.0f} on average, instead of
{run.mean(NORMAL):.0f}). {" ".join(parts)}

{_beside_normal(LONG, setting(FIRST), "")}
"""


def time() -> str:
    steps, timed = FirstLook(figures(LOOK)).steps, figures().times(setting())
    assert steps is not None
    rows = [[str(rows), *(f"{1e3 * each:.1f}" for each in seconds)] for rows, seconds in steps.seconds.items()]
    share_G = figures().share_G(setting())
    of_setting = []
    for batch, time in timed.items():
        allowed = [steps.independent(batch, share_G), steps.together(batch, share_G)] if batch in BATCHES else []
        told = [*map(percent_of, allowed)] or ["–", "–"]
        of_setting.append([str(batch), *told, share_of(time.complement)])
    return f"""
## Time

A step in milliseconds, by rows and by the last layer that is run (medians over rounds):

{table_of(["rows", *map(str, steps.layers)], rows)}

What that allows the setting's exits to save, if deciding were free, where rows leave each for itself and where they
leave together, and what the clock says:

{table_of(["rows", "independent", "together", "by the clock"], of_setting)}
"""


def learned() -> str:
    found = card(READOUT)
    agreement = pd.DataFrame(found["held_out"]).pivot(index="readout", columns="layer", values="agreement")
    rows = [[f"`{readout}`", *map(percent_of, of)] for readout, of in agreement.iterrows()]
    return f"""
## Learned exits

Agreement with full depth's likeliest token on held-out texts; `linear` learned
from {found["data"]["n_tokens"]:,} tokens.

{table_of(["layer", *map(str, agreement)], rows)}
"""


def grading() -> str:
    found = pd.read_csv(HOME / "grading.csv", index_col="sort")
    total = found.sum()
    rows = [[str(sort), *map(str, of)] for sort, of in found.iterrows()]
    return f"""
## How well answers are graded

Every accuracy has the grader's error beside the sample's. Of {total["texts"]} texts as small models write them, which a
careful reader had marked and no part of which made the grader, it marks {total["alike"]} alike
({percent_of(total["alike"] / total["texts"])}); wrongly right: {total["wrongly_right"]}, wrongly wrong:
{total["wrongly_wrong"]}. A test counts them again.

{table_of(["answers", "texts", "marked alike", "wrongly right", "wrongly wrong"], rows)}
"""


def _asked(what: str) -> str:
    """The tests of the setting in both dtypes, and all prompts."""
    key, rows = setting(what), []
    for dtype in DTYPES:
        run, (p_value, error), lost = sweep(f"{what}-{dtype}"), _tested(what, dtype), _lost(what, dtype)
        reporting = run.lost(key, reporting=True)
        rows.append([
            dtype, f"{lost.n:,}", share_of(lost), p_of(p_value), p_of(error), certificates(what)[dtype],
            f"{share_of(reporting)} of {reporting.n}",
        ])  # fmt: skip
    table = table_of(["dtype", "prompts", "lost", "p", "may err with", "", "reporting: lost"], rows)
    one, other = (sweep(f"{what}-{dtype}").lost_prompts(key) for dtype in DTYPES)
    p_alone = mcnemar(len(one - other), len(other - one))
    return f"""{table}

The prompts that the setting loses {words.dtypes(p_alone)} between dtypes: {len(one - other)} are lost in
{DTYPES[0]} alone, {len(other - one)} in {DTYPES[1]} alone (McNemar's exact test, p = {p_of(p_alone)}).

{_beside_normal(what, key, "Of all prompts of the run:")}"""


def _beside_normal(what: str, key: str, said: str) -> str:
    rows = []
    for dtype in DTYPES:
        run = sweep(f"{what}-{dtype}")
        difference = run.beside_normal(key)
        rows.append([
            dtype, share_of(run.accuracy(NORMAL)), share_of(run.accuracy(key)),
            points_of(mean_of(difference, ValueKind.DIFFERENCE)), gained_and_lost(difference),
            share_of(run.disagreement(key)), share_of(run.skipped(key)), share_of(run.saved(key)),
        ])  # fmt: skip
    heads = [
        "dtype", "`normal` right", "setting right", "difference", "gained, lost", "disagreement", "skipped", "saved",
    ]  # fmt: skip
    return f"{said}\n\n{table_of(heads, rows)}".strip()


def gained_and_lost(difference: pd.Series) -> str:
    return f"{(difference > 0).sum()}, {(difference < 0).sum()}"


def _tested(what: str, dtype: str) -> tuple[float, float]:
    """The p-value of the announced test, and what it may err with."""
    choice = sweep(f"{what}-{dtype}").choice
    [tested] = choice["tested"]
    return float(tested["p_value"]), float(choice["error_of_each"])


def _lost(what: str, dtype: str) -> Estimate:
    return sweep(f"{what}-{dtype}").lost(setting(what), reporting=False)


def _named(what: str) -> str:
    return " and ".join(f"{each} in {dtype}" for dtype, each in certificates(what).items())


def _most_tokens(each: StudySweep) -> int:
    return int(each.finished.manifest.config["max_new_tokens"])
