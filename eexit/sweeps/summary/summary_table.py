"""The tables that are printed at the end of a sweep, with one line per configuration."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eexit.output.result_table import SOFT_HYPHEN, ResultTable
from eexit.output.text import format_number, interval, percent
from eexit.plan.configuration import NORMAL, PROMPT_MARK, Configuration, Draft, short_name
from eexit.plan.runs import ERROR, OK
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS as OF_KINDS
from eexit.quality.by_kind import by_kind
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import COST_NEEDED, COST_RUN, TAKEN, TOKENS, CostPerCorrect, per_right
from eexit.quality.estimates import NOTHING, Estimate
from eexit.results.committed import predictions_of, read_columns
from eexit.results.configuration_means import (
    CUT,
    LOOP_SHARE,
    cut_warning,
    estimates_of_runs,
    numbers_of,
    outcomes,
    screen_misses,
    with_cut,
)
from eexit.results.layout import MANIFEST
from eexit.results.store.folder import Store
from eexit.results.store.manifest import read_manifest
from eexit.sweeps.summary.contradicted import OF_CONTRADICTED, Contradicted, contradicted_rules, on_normal

COLUMNS = [
    *("prompt_id", "configuration", "status", "finish_reason", "n_tokens", "mean_depth", "disagreement"),
    *("longest_loop", "perplexity", "tokens_until_difference", "correct"),
    *("exit_rate", "exits_on_normal", "contradicted_on_normal", "screen_reads", "screen_misses"),
    *("drafted", "accepted", "passes", "tokens_per_pass", "expected_time"),
]
# The report's words, hyphenated where the table exceeds 80 columns.
HEADINGS = tuple(
    heading.replace("|", SOFT_HYPHEN)
    for heading in ("layers\nskipped", "dis|agree|ment", "one\nloop", "per|plex|ity", "same\nas\nnormal\nuntil")
)
CAPTION = (
    "Means over prompts or groups, as if alone; layers skipped are no saving. Disagreement: tokens "
    "unlike full depth's on that text. One loop: share in its longest loop. Same as normal until: tokens before they "
    "differ."
)
DIFFERENT_HEADING = f"dif{SOFT_HYPHEN}ferent"
DIFFERENT_CAPTION = (
    " Different: runs without repeats. Where tokens are greedy and exits are not random, all seeds have the same run."
)
ANSWERS_HEADINGS = (f"cor{SOFT_HYPHEN}rect", "cut")
ANSWERS_CAPTION = (
    " Correct: right answers, of prompts with an answer. Cut: texts of these prompts that ended at max_new_tokens."
)
TAKEN_HEADINGS = {COST_RUN: "cost per\nright", COST_NEEDED: "if free to\ndecide", TOKENS: "tokens\nper right"}
TAKEN_CAPTION = (
    " Cost per right: multiply-adds of all runs over right answers, as a multiple of those of normal; with the 95 % "
    "interval over prompts, as that of tokens per right."
)
PROMPT_CAPTION = f" {PROMPT_MARK}: prompt tokens and the first one exit too, and their costs count."
UNOBSERVED_CAPTION = " Disagreement and perplexity are unknown: full depth was not recorded (--record-full-depth none)."
SCREENED_CAPTION = " Screen: of the {n_left:,} early exits decided on it, {missed} lacked the whole head's top token."
# The report uses the same words.
DRAFT_HEADINGS = (f"ac{SOFT_HYPHEN}cept{SOFT_HYPHEN}ed", f"ex{SOFT_HYPHEN}pected\ntime")
DRAFTS_CAPTION = (
    " Accepted: of all drafted tokens, those that full depth agreed with. Expected time: × full depth's, lower is "
    "better, if a call of a layer or of the head takes as long for several tokens as for one; eexit timings measures "
    "it."
)

# A second table, where prompts are of several kinds, but not of so many that it is too wide.
MOST_KINDS = 8
KINDS_CAPTION = "By kind of prompt: {what}. --json FILE has more of it, with intervals."


def closing_table(
    store: Store,
    configurations: Sequence[Configuration],
    same_for_every_seed: Collection[str] = (),
    prompts: Sequence[Mapping[str, Any]] = (),
    precision: str = "",
) -> ResultTable:
    """Return the table of each configuration's means over sampling units; agreement is with the prompt's normal run.

    In configurations with keys in `same_for_every_seed`, a prompt's runs count once. Costs of a right answer are
    included where `prompts`, as in `sweep.json`, were answered after a chain of thought. `precision` is that of the
    model.
    """
    generations = with_cut(read_columns(store, list(dict.fromkeys([*COLUMNS, *OF_RIGHT]))))
    has_answers = generations["correct"].null_count < len(generations)
    has_errors = bool(pc.any(pc.equal(generations["status"], ERROR)).as_py())
    has_drafts = any(isinstance(configuration, Draft) for configuration in configurations)
    done = generations.filter(pc.field("status") == OK)
    is_unobserved = len(done) > 0 and done["perplexity"].null_count == len(done)
    found = [outcomes(configuration, generations, same_for_every_seed) for configuration in configurations]
    has_repeats = any(counts.n_different < counts.n_runs for counts in found)
    unit_of = sampling_units(prompts)
    estimates = [estimates_of_runs(each, of.done, unit_of) for each, of in zip(configurations, found, strict=True)]
    of_right = per_right(generations, unit_of) if prompts else {}
    # The cost with free decisions is shown where the cost of what was run is unknown, as for oracles.
    lacks = any(math.isnan(of[COST_RUN].taken.mean) for of in of_right.values())
    taken = [name for name in TAKEN if name != COST_NEEDED or lacks] if of_right else []
    captions = {
        f" Computed in {precision}.": bool(precision),
        UNOBSERVED_CAPTION: is_unobserved,
        DIFFERENT_CAPTION: has_repeats,
        ANSWERS_CAPTION: has_answers,
        TAKEN_CAPTION: bool(taken),
        PROMPT_CAPTION: any(each.prompt_exits for each in configurations),
        DRAFTS_CAPTION: has_drafts,
    }
    contradicted = _contradicted(store, configurations, [of.done for of in found], unit_of)
    cut_shares = {each.key: of[CUT].mean for each, of in zip(configurations, estimates, strict=True)}
    warnings = [contradicted_rules(contradicted), cut_warning(cut_shares) if has_answers else ""]
    caption = "\n".join([*filter(None, warnings), CAPTION])
    caption += "".join(each for each, is_there in captions.items() if is_there)
    if missed := screen_misses(pa.concat_tables(of.done for of in found)):
        caption += SCREENED_CAPTION.format(n_left=missed[0], missed=percent(missed[1]))
    table = ResultTable(caption)
    table.add("key", "configuration", shorten=short_name)
    table.add("number", "runs", *[DIFFERENT_HEADING] * has_repeats, *["failed"] * has_errors)
    of_taken = [heading for name in taken for heading in (TAKEN_HEADINGS[name], "95 %\ninterval")]
    table.add("number", *HEADINGS, *ANSWERS_HEADINGS * has_answers, *of_taken, *DRAFT_HEADINGS * has_drafts)
    for configuration, of, its in zip(configurations, found, estimates, strict=True):
        counts = [of.n_runs, *[of.n_different] * has_repeats, *[of.n_errors] * has_errors]
        means = [*_means(its, has_answers), *_taken_cells(of_right.get(configuration.key), taken)]
        drafts = (
            [percent(its["acceptance"].mean), format_number(its["expected_time"].mean, ".2f")] if has_drafts else []
        )
        table.add_row(configuration.key, *(f"{count:,}" for count in counts), *means, *drafts)
    return table


def _contradicted(
    store: Store, configurations: Sequence[Configuration], done: Sequence[pa.Table], unit_of: Mapping[str, str]
) -> dict[Configuration, Contradicted]:

    found = {}
    for configuration, runs in zip(configurations, done, strict=True):
        of_runs = numbers_of(runs, OF_CONTRADICTED)
        prompt_R = runs["prompt_id"].to_pylist()
        unit_R = [unit_of.get(prompt_id, prompt_id) for prompt_id in prompt_R]
        wrong_R, exits_R = (of_runs[name] for name in OF_CONTRADICTED)
        found[configuration] = Contradicted.of_runs(wrong_R, exits_R, prompt_R, unit_R)
    manifest = read_manifest(store) if store.has(MANIFEST) else None
    if manifest is None or manifest.config["screen"]:
        return found
    prompt_of_run, tokens = predictions_of(store, NORMAL)
    layers = [*manifest.exitable_layers, manifest.model["n_layers"] - 1]
    of_all = on_normal(tokens, prompt_of_run, unit_of, layers, configurations)
    return {each: of_all.get(each.key, of) for each, of in found.items()}


def kinds_table(
    store: Store, configurations: Sequence[Configuration], prompts: Sequence[Mapping[str, Any]]
) -> ResultTable | None:
    """Return correct answers by configuration and kind, else disagreement; None for one kind or too many."""
    kind_of = kinds(prompts)
    if not 1 < len({*kind_of.values()}) <= MOST_KINDS:
        return None
    found = by_kind(read_columns(store, OF_KINDS), kind_of, sampling_units(prompts))
    named = sorted({kind for of in found.values() for kind in of})
    has_answers = any(beside.accuracy.n for of in found.values() for beside in of.values())
    measure, what = ("accuracy", "right answers") if has_answers else ("disagreement", "disagreement with full depth")
    table = ResultTable(KINDS_CAPTION.format(what=what))
    table.add("key", "configuration", shorten=short_name)
    table.add("number", *named)
    for configuration in configurations:
        of = found.get(configuration.key, {})
        shares = (getattr(of[kind], measure).mean if kind in of else None for kind in named)
        table.add_row(configuration.key, *map(percent, shares))
    return table


def _taken_cells(found: Mapping[str, CostPerCorrect] | None, taken: Sequence[str]) -> list[str]:
    cells = []
    for name in taken:
        of = found[name] if found else CostPerCorrect(NOTHING, NOTHING)
        shown, form = (of.taken, ".1f") if name == TOKENS else (of.beside_normal, ".2f")
        cells += [format_number(shown.mean, form), interval(shown.low, shown.high, form)]
    return cells


def _means(of: Mapping[str, Estimate], has_answers: bool) -> list[str]:
    return [
        percent(of["mean_depth"].complement.mean),
        percent(of["disagreement"].mean),
        percent(of[LOOP_SHARE].mean),
        format_number(of["perplexity"].mean, ".4g"),
        format_number(of["tokens_until_difference"].mean, ".1f"),
        *([percent(of["correct"].mean), percent(of[CUT].mean, 0)] if has_answers else []),
    ]
