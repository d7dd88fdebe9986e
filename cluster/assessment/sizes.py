"""How much of an assessment fits into its minutes, by how fast the model has been so far, and what is left out.

The first step is of a fixed size. It says how long a step of decoding takes, and how long work takes to begin. What is
left of the minutes goes to the other steps by `SHARES`; what is run last is planned once all before it is done. How
likely all that is to certify a setting is said before anything is run, once it is known how fast the model is, and
before the run: by the test that will be made (`parts.Enough`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.assessment.parts import ANSWERS, CHOOSING, PILOT, REPORTING, TRAINING, Enough
from cluster.assessment.parts import SHARES as PARTS_OF_PROMPTS
from eexit.errors import UsageError
from eexit.output.text import ordinal, percent, short_percent
from eexit.quality.estimates import MIN_ROUNDS
from eexit.quality.risk_tests import POWER

LOOK, CEILING, LEARN, SEARCH, RUN, CHOOSE, TIME, INSTEAD, ROWS = STEPS = (
    "look", "ceiling", "learn", "search", "run", "choose", "time", "instead", "rows",
)  # fmt: skip
SHARES: Final = {
    LOOK: 0.09, CEILING: 0.09, LEARN: 0.2, SEARCH: 0.09, RUN: 0.26, CHOOSE: 0.01, TIME: 0.05, INSTEAD: 0.15, ROWS: 0.06,
}  # fmt: skip
SWEPT_PROMPTS, LOOK_PROMPTS, LOOK_TOKENS = 4, 1, 8  # that T(rows, layers) is measured with, of how many that are swept
LEAST_LOOKS, MOST_LOOKS, MINUTES_OF_A_LOOK = 3, 6, 8  # its rounds: as many as fit so many minutes
TIMED_PROMPTS, TIMED_TOKENS, MOST_ROUNDS = 2, 32, 20
TEXT_TOKENS, TOKENS_OF_A_TEXT = 96, 64  # that texts to learn from have at most, and about
PROMPTS_TO_LEARN, MOST_SEEDS, LEAST_TEXTS = 400, 16, 60
LEAST_PILOT, MOST_PILOT = 24, 120
CONFIGURATIONS_OF_THE_PILOT: Final = 26  # that generate there, about, with every readout
MOST_TRIED, MOST_FREE, MOST_SETTINGS = 8, 4, 4  # settings on the pilot, also as if free; on prompts for choosing
CURVE: Final = "curve"
NAMES: Final = {  # of what is learned, in order: each comes only after those before it
    "linear": "a linear readout",
    "state": "maps of what exits leave",
    "probe": "a probe",
    "gate": "a gate",
    CURVE: "agreement by number of tokens",
}
# How long each takes, as a multiple of the time that its texts took: its passes over them, and reads of held-out ones.
OF_TEXTS: Final = "texts"
TAKES: Final = {"linear": 1.2, "state": 3.0, "probe": 4.7, "gate": 1.6, CURVE: 0.9}
# How often work begins with all up to this that is learned.
STARTS: Final = {CURVE: 16, "gate": 15, "probe": 13, "state": 12, "linear": 11, "": 7}
TIMES_ITS_SHARE: Final = 3  # of what is left a step may take, so that one that takes longer than planned can end
LEAST_SHARE, MOST_SHARE = 0.05, 0.8  # of a step that count as done when the minutes that would do are told
USUAL_START: Final = 20.0  # seconds that work takes to begin, where that was measured and is lost
MOST_OF_STARTS: Final = 0.5  # share of the minutes that may go into beginning work
SAMPLING: Final = 0.75  # of the speed at full depth that many rows have, whose texts end one after the other
CHECKED: Final = PARTS_OF_PROMPTS[REPORTING] / PARTS_OF_PROMPTS[CHOOSING]  # for reporting, for each one for choosing
OBSERVING: Final = 1.5  # times as long as decoding alone, since full depth looks at every finished text


@dataclass(frozen=True)
class Budget:
    """What there is to plan with: the seconds that are left, the prompts of each part, and how many a verdict takes.

    `plain` are tokens per second at full depth and `reading` those with a read at each exitable layer, with as many
    rows as were timed at most; `start` are the seconds that work takes before its first token.
    """

    seconds: float
    plain: float
    reading: float
    start: float
    available: Mapping[str, int]
    enough: Enough


@dataclass(frozen=True)
class SearchSizes:
    """Prompts and texts of the steps up to the search. `learns` says what is learned: `linear`, and so on."""

    learns: Sequence[str]
    training: int
    seeds: int
    pilot: int
    left_out: Sequence[str]


@dataclass(frozen=True)
class RunSizes:
    """Prompts and settings of the last steps."""

    choosing: int
    reporting: int
    settings: int
    controls: bool
    rounds: int
    left_out: Sequence[str]


def most_seconds(step: str, left: float, later: Sequence[str]) -> float:
    """What a step may take of the seconds that are left, if these steps are to come after it: some times its share, but
    not what would leave them less than half of theirs.
    """
    own, others = SHARES[step], sum(SHARES[each] for each in later)
    return max(0.0, left) * min(TIMES_ITS_SHARE * own, own + others / 2) / (own + others)


def minutes_that_would_do(minutes: float, share: float, step: str = "") -> int:
    """Minutes of which a step's part suffices, given those of which it sufficed for such a share of the step: all steps
    grow with the minutes, but for the last ones, which have a size of their own.
    """
    times = 1 / min(MOST_SHARE, max(share, LEAST_SHARE))
    return math.ceil(minutes * (1 + SHARES[step] * (times - 1) if step in (INSTEAD, ROWS) else times)) + 1


def look_rounds(minutes: float) -> int:
    """Rounds that T(rows, layers) is measured in."""
    return max(LEAST_LOOKS, min(MOST_LOOKS, int(minutes / MINUTES_OF_A_LOOK)))


def timed_prompts(batch: int) -> int:
    """How many prompts a round is timed on, one at least for each row: rows of the same prompt would leave together."""
    return max(TIMED_PROMPTS, batch)


def search_sizes(budget: Budget, max_new_tokens: int, minutes: float) -> SearchSizes:
    """What fits into the seconds that are left. Raises `UsageError` if not even the least does."""
    seconds, available = budget.seconds, budget.available
    learns, left_out = _learns(budget)
    least = _seconds_of_least(budget, max_new_tokens)
    if least > seconds:
        spent = 60 * minutes - seconds
        raise UsageError(
            f"--minutes {minutes:g} are too few on this machine: {math.ceil((spent + least) / 60)} would do for the "
            "least that a verdict takes; what was measured stays"
        )
    rest = seconds - STARTS[learns[-1] if learns else ""] * budget.start
    share = {step: part / (1 - SHARES[LOOK]) for step, part in SHARES.items()}
    seconds_of_texts = rest * share[LEARN] * parts_of_learning(learns)[OF_TEXTS]
    texts = int(max(LEAST_TEXTS, seconds_of_texts * budget.plain * SAMPLING / TOKENS_OF_A_TEXT))
    training = min(available[TRAINING], PROMPTS_TO_LEARN, texts) if learns else 0
    seeds = max(1, min(MOST_SEEDS, texts // training)) if learns else 1
    of_pilot = rest * (share[CEILING] + share[SEARCH]) * budget.reading / OBSERVING
    pilot = int(of_pilot / (max_new_tokens * CONFIGURATIONS_OF_THE_PILOT))
    pilot = min(available[PILOT], max(LEAST_PILOT, min(MOST_PILOT, pilot)))
    return SearchSizes(learns, training, seeds, pilot, left_out)


def run_sizes(budget: Budget, tokens_of_a_text: float, n_found: int, seconds_of_a_round: float) -> RunSizes:
    """What of the run fits into the seconds that are left: first prompts until they are likely to be enough, then
    controls, then more settings, then all prompts that there are.

    At least, one setting is run on as many prompts as can certify it.
    """
    left_out: list[str] = []
    rest = max(0.0, budget.seconds - 2 * budget.start)
    share = sum(SHARES[step] for step in STEPS[STEPS.index(RUN) :])
    n_texts = rest * SHARES[RUN] / share * budget.reading / OBSERVING / tokens_of_a_text
    wanted, _ = _wanted(budget)
    n, controls, choosing, reporting = _fitting(budget, n_texts, n_found)
    if not controls:
        left_out.append("controls of the same depth, for want of minutes")
    if n < n_found:
        left_out.append(f"{n_found - n} of {n_found} settings of the front, the boldest, for want of minutes")
    if choosing < wanted:
        left_out.append(f"{wanted - choosing} of {wanted} prompts for choosing, for want of minutes")
    rounds = int(rest * (SHARES[TIME] + SHARES[ROWS]) / share / max(seconds_of_a_round, 1e-3))
    return RunSizes(choosing, reporting, n, controls, max(MIN_ROUNDS, min(MOST_ROUNDS, rounds)), left_out)


def expected_choosing(budget: Budget, max_new_tokens: int) -> int:
    """How many prompts for choosing the run will have at the least, as far as the first step tells."""
    rest = max(0.0, budget.seconds - STARTS[""] * budget.start)
    seconds = rest * SHARES[RUN] / (1 - SHARES[LOOK])
    n_texts = seconds * budget.reading / (OBSERVING * max_new_tokens)
    return _fitting(budget, n_texts, MOST_SETTINGS)[2]


def minutes_for_enough(budget: Budget, max_new_tokens: int, minutes: float) -> int:
    """With how many minutes the run of one setting has as many prompts as are likely to be enough."""
    n_texts = _texts(1, False, budget.enough.likely * (1 + CHECKED))
    seconds = n_texts * max_new_tokens * OBSERVING / budget.reading * (1 - SHARES[LOOK]) / SHARES[RUN]
    return math.ceil(minutes + (seconds + STARTS[""] * budget.start - budget.seconds) / 60)


def _wanted(budget: Budget) -> tuple[int, int]:
    """Prompts for choosing and reporting that are likely to be enough, if there are so many."""
    wanted = min(budget.enough.likely, budget.available[CHOOSING])
    return wanted, min(math.ceil(CHECKED * wanted), budget.available[REPORTING])


def _fitting(budget: Budget, n_texts: float, n_found: int) -> tuple[int, bool, int, int]:
    """How many settings, with or without controls, and prompts for choosing and reporting make so many texts."""
    wanted, checked = _wanted(budget)
    most = min(MOST_SETTINGS, max(n_found, 1))
    controlled = [n for n in range(1, most + 1) if n_texts >= _texts(n, True, wanted + checked)]
    n, controls = max(controlled, default=1), bool(controlled)
    fits, least = n_texts / _texts(n, controls, 1), budget.enough.least
    spared = min(budget.available[REPORTING], fits * CHECKED / (1 + CHECKED))
    choosing = int(min(budget.available[CHOOSING], max(least, fits - spared)))
    reporting = int(min(budget.available[REPORTING], max(least // 3, fits - choosing)))
    return n, controls, choosing, reporting


def _learns(budget: Budget) -> tuple[tuple[str, ...], list[str]]:
    """What is learned, the richest that leaves enough time, and what is not."""
    at_most = MOST_OF_STARTS * budget.seconds
    fits = [last for last, starts in STARTS.items() if starts * budget.start <= at_most]
    last = fits[0] if fits else ""
    learned = tuple(NAMES)[: list(NAMES).index(last) + 1] if last else ()
    return learned, [f"{name}, for want of minutes" for what, name in NAMES.items() if what not in learned]


def parts_of_learning(learns: Sequence[str]) -> Mapping[str, float]:
    """The shares of the time to learn that each of these takes, and `OF_TEXTS`, what is learned from."""
    takes = {OF_TEXTS: 1.0, **{what: TAKES[what] for what in learns}}
    return {what: each / sum(takes.values()) for what, each in takes.items()}


def _texts(n_settings: int, controls: bool, n_prompts: float) -> float:
    """Of a sweep of these settings, their controls and `normal`."""
    return n_prompts * (1 + n_settings * (2 if controls else 1))


def _seconds_of_least(budget: Budget, max_new_tokens: int) -> float:
    """Of a search without learning, and a run of one setting on as many prompts as can certify it."""
    n_texts = LEAST_PILOT * CONFIGURATIONS_OF_THE_PILOT / 2 + _texts(1, False, budget.enough.least * 4 / 3)
    return STARTS[""] * budget.start + n_texts * max_new_tokens / 2 * OBSERVING / budget.reading


def told_of_asks(n_before: int, enough: Enough) -> str:
    """That the prompts for choosing were asked before, in results beside these."""
    return (
        f"It is the {ordinal(n_before + 1)} ask of these prompts for choosing, by the results beside these: it may err "
        f"with {short_percent(enough.error)} only. Other --prompts, or another --seed of generated ones, are fresh."
    )


def told_of_prompts(enough: Enough, available: Mapping[str, int], risk: str) -> Iterator[str]:
    """Of the prompts that there are, if minutes suffice for all of them."""
    n, half = available[CHOOSING], short_percent(enough.margin / 2)
    yield (
        f"a margin of {short_percent(enough.margin)} takes {enough.least:,} prompts for choosing at the least, and "
        f"{enough.likely:,} to certify a setting that loses {half} with a chance of {percent(POWER, 0)}; there are "
        f"{n:,}, and {available[REPORTING]:,} for reporting"
    )
    if risk != ANSWERS:
        yield (
            "these numbers are for answers that are lost or not; shares of tokens take fewer where they are small on "
            "all prompts, and more where they are large on a few"
        )
    elif n < enough.likely:
        yield f"{promise(enough, n)}; about {enough.likely_in_all:,} prompts in all would do for {half}"


def told_of_minutes(budget: Budget, risk: str, max_new_tokens: int, minutes: float) -> tuple[str, bool]:
    """Of the minutes that there are, as far as the first step tells, and whether they are likely to be enough."""
    n, enough = expected_choosing(budget, max_new_tokens), budget.enough
    if risk != ANSWERS:
        return f"with {minutes:g} minutes, there is time for at least {n:,} prompts for choosing", True
    said = f"with {minutes:g} minutes: {promise(enough, n)}"
    wanted = min(enough.likely, budget.available[CHOOSING])
    if n >= wanted:
        return said, True
    would_do = minutes_for_enough(budget, max_new_tokens, minutes)
    return f"{said}; about {would_do:,} minutes would do for {short_percent(enough.margin / 2)}", False


def promise(enough: Enough, n: int) -> str:
    """How likely n prompts are to certify what loses less than the margin."""
    loss, margin = enough.loss_certified(n), short_percent(enough.margin)
    if math.isnan(loss):
        return f"{n:,} prompts for choosing can't certify a loss of at most {margin}"
    return (
        f"{n:,} prompts for choosing certify {margin} with a chance of {percent(POWER, 0)} if a setting loses "
        f"{short_percent(loss)} of them, and of {percent(enough.chance(n), 0)} if it loses "
        f"{short_percent(enough.margin / 2)}"
    )
