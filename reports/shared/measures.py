"""Axes of the trade-off: measures of quality, and the savings of a configuration."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eexit.quality.rubric import ASPECTS
from reports.read.judgements import SCORE, Judge
from reports.read.timings import TimingSetup

DISAGREEMENT: Final = "disagreement"
CONTRADICTED: Final = "contradicted"  # share of early exits on the text of `normal` that the final layer contradicts
EARLY_CONTRADICTED: Final = "Early exits contradicted"  # the label of `CONTRADICTED`
PERPLEXITY: Final = "perplexity"
FIDELITY: Final = "tokens_until_difference"
CORRECT: Final = "correct"  # its mean is the accuracy; present if the sweep's prompts have answers
CUT: Final = "cut"  # the share of texts that max_new_tokens ended, over the same texts as the accuracy
CUT_TEXTS: Final = "Cut by max_new_tokens"  # the label of `CUT`
DIFFERENCE: Final = "_difference"  # suffix of columns of differences from `normal`
SKIPPED: Final = "layers_skipped"
LAYERS_SKIPPED: Final = "Layers skipped"  # the label of 1 − mean depth
THEORETICAL: Final = "theoretical"
RUN: Final = "run"
ELSEWHERE: Final = "run_elsewhere"  # as run, at another model's unit costs
REALISED: Final = "realised"
# Columns of the cost per right answer → the runs' costs, and their names.
PER_RIGHT: Final = {"run_per_right": "macs_executed", "needed_per_right": "macs_required"}
SENSES: Final = {"run_per_right": "run", "needed_per_right": "theoretical"}
SCORES: Final = "Scores are taken from the file as they are."


@dataclass(frozen=True)
class Measure:
    """A measure of quality: its column, the label by which the reader chooses it, and how it is read."""

    column: str
    label: str
    title: str  # of its axis
    meaning: str  # a sentence
    is_share: bool = False
    higher_is_better: bool | None = True  # None: not known


@dataclass(frozen=True)
class CostAxis:
    """A configuration's saving as a fraction of full depth, in one of the senses of `savings`."""

    column: str
    label: str
    title: str
    measured: TimingSetup | None = None


MEASURES: Final = {
    measure.column: measure
    for measure in (
        Measure(
            DISAGREEMENT,
            "Disagreement",
            "Disagreement (share of decided tokens)",
            "Disagreement: the share of decided tokens that are not full depth's likeliest, given the same text.",
            is_share=True,
            higher_is_better=False,
        ),
        Measure(
            PERPLEXITY,
            "Perplexity",
            "Perplexity under full depth",
            "A low perplexity is no proof of quality: a text that repeats itself in a loop is fluent to the model.",
            higher_is_better=False,
        ),
        Measure(
            FIDELITY,
            "Fidelity",
            "Tokens until first difference",
            "The number of tokens before the first one that differs from the normal run. A text that never differs "
            "counts with its whole length, so that no point can be higher than the texts are long.",
        ),
        Measure(
            CORRECT,
            "Accuracy",
            "Accuracy (share of prompts with an answer)",
            "Accuracy: the share of runs whose answer is right, of prompts with an answer. A text that "
            "ended at max_new_tokens before its answer is wrong.",
            is_share=True,
        ),
        Measure(
            "lcs_share",
            "Agreement with normal",
            "Agreement with normal (common subsequence)",
            "Agreement: the share of a longest common subsequence of the text and that of normal. It measures change, "
            "not harm.",
            is_share=True,
        ),
    )
}
SKIPPING: Final = CostAxis(SKIPPED, "layers skipped", LAYERS_SKIPPED)


def measures_of_quality(judges: Sequence[Judge], scores: Mapping[str, str]) -> list[Measure]:
    """Return the measures: accuracy, judges' scores, the file's scores (columns → labels), then automatic ones."""
    judged = [_judged(judge, several=len(judges) > 1) for judge in judges]
    scored = [Measure(key, label, label, SCORES, higher_is_better=None) for key, label in scores.items()]
    others = (MEASURES[name] for name in (DISAGREEMENT, "lcs_share", PERPLEXITY, FIDELITY))
    return [MEASURES[CORRECT], *judged, *scored, *others]


def _judged(judge: Judge, several: bool) -> Measure:
    by = f"by {judge.name}" if several else "by the judge"
    aspects = ", ".join(aspect.replace("_", " ") for aspect in ASPECTS)
    return Measure(
        judge.column(SCORE),
        f"Score {by}",
        f"Score by {judge.name} (1 to 5)",
        f"Score: the mean of {aspects}, 1 to 5 each, as {judge.name} judges them.",
    )


def costs(columns: Collection[str], measured: Sequence[TimingSetup], elsewhere: str | None) -> list[CostAxis]:
    """Return the senses of saving that are among `columns`.

    They are multiply-adds: theoretical, as run, per right answer where texts have chains of thought, and at another
    model's unit costs (`elsewhere` is its name). Where measured, time is one too.
    """
    of_answers, senses = "per right answer", SENSES.items()
    named: list[tuple[str, str, str]] = [
        (THEORETICAL, "multiply-adds, theoretical", "Multiply-adds saved if deciding were free"),
        (RUN, "multiply-adds, run", "Multiply-adds saved, of what was run"),
        *((of, f"multiply-adds {of_answers}, {it}", f"Multiply-adds saved {of_answers}, {it}") for of, it in senses),
        (
            ELSEWHERE, f"multiply-adds, run, at the unit costs of {elsewhere}",
            f"These exits at {elsewhere}: multiply-adds saved",
        ),
    ]  # fmt: skip
    axes = [CostAxis(*each) for each in named]
    for each in measured:
        label = f"realised at {each.label}"
        axes.append(CostAxis(each.column(REALISED), f"time, {label}", f"Time saved, {label}", each))
    return [cost for cost in axes if cost.column in columns]
