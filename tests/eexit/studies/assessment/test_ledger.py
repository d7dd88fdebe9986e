"""What each restriction takes, in every order; which of them is the cause; and how often both are wrong.

Shapes: P prompts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import linprog

from eexit.studies.assessment.ledger import NEEDED, NONE, Cause, Imposed, Ledger
from eexit.studies.assessment.options import Best, Option, best_of, mixture
from eexit.studies.assessment.verdict import DECIDING, KNOWING, PROOF, RESTRICTIONS, STATE

AT_MOST = 0.02
K, SK, SKD, SKP, ALL = (
    frozenset(each)
    for each in ([KNOWING], [STATE, KNOWING], [STATE, KNOWING, DECIDING], [STATE, KNOWING, PROOF], RESTRICTIONS)
)
S, KD = frozenset([STATE]), frozenset([KNOWING, DECIDING])
Figures = Mapping[Imposed, float]


def exact(figures: Figures) -> Ledger:
    """As if each saving were known but for a hair."""
    hair_P = np.tile([-1e-6, 1e-6], 50)
    return Ledger({imposed: Best.known("", None, saved + hair_P) for imposed, saved in figures.items()})


def drawn(random: np.random.Generator) -> dict[Imposed, float]:
    """Savings that further restrictions never raise, from almost nothing to almost all being lost at each."""
    top = random.uniform(0.05, 0.5)
    kept = dict(zip(RESTRICTIONS, random.uniform(size=4) ** random.choice([0.03, 1.0, 8.0], 4), strict=True))
    both = random.uniform(max(kept[STATE], kept[KNOWING]), 1)  # of what both take, they take some alike
    figures = {NONE: 1.0, S: kept[STATE], K: kept[KNOWING], SK: kept[STATE] * kept[KNOWING] / both}
    figures |= {SKD: figures[SK] * kept[DECIDING], SKP: figures[SK] * kept[PROOF]}
    figures |= {ALL: figures[SKD] * kept[PROOF], KD: random.uniform(figures[SKD], kept[KNOWING])}
    return {imposed: top * share for imposed, share in figures.items()}


def test_each_cause_comes_out_and_none_where_the_first_and_the_last_place_differ() -> None:
    random, causes = np.random.default_rng(1), Counter[str | None]()
    for _ in range(800):
        figures = drawn(random)
        ledger = exact(figures)
        places = [
            {each: figures[of := ledger.contexts(each)[at]] - figures[of | {each}] for each in RESTRICTIONS}
            for at in (0, -1)
        ]
        most = [max(place, key=lambda each: place[each]) for place in places]
        assert ledger.cause.name in ((most[0], None) if most[0] == most[1] else (None,))
        assert ledger.cause.name is not None or {*most} <= {*ledger.cause.undecided}
        causes[ledger.cause.name] += 1
        missing = NEEDED[int(random.integers(len(NEEDED)))]
        assert exact({imposed: saved for imposed, saved in figures.items() if imposed != missing}).cause == Cause()
    assert set(causes) == {*RESTRICTIONS, None}
    assert min(causes.values()) >= 10


def test_what_restrictions_take_on_the_mean_of_all_orders_adds_up() -> None:
    for seed in range(50):
        figures = drawn(np.random.default_rng(seed))
        ledger = exact(figures)
        taken = [ledger.on_the_mean(each).mean for each in RESTRICTIONS]
        assert min(taken) >= 0
        assert sum(taken) == pytest.approx(figures[NONE] - figures[ALL])


def test_what_was_not_measured_is_estimated_from_nothing() -> None:
    figures = {NONE: 0.4, S: 0.2, SK: 0.1}
    ledger = exact(figures)
    assert ledger.contexts(STATE) == [NONE]
    assert ledger.contexts(KNOWING) == [S]
    assert ledger.contexts(PROOF) == ledger.contexts(DECIDING) == []
    assert np.isnan(ledger.on_the_mean(STATE).mean), "no order was measured to its end"


def test_the_order_of_the_study_decides_no_cause() -> None:
    """There, the state takes most as the first, and knowing takes most as the last."""
    ledger = exact({NONE: 0.395, S: 0.184, K: 0.144, KD: 0.13, SK: 0.084, SKD: 0.07, SKP: 0.063, ALL: 0.052})
    assert ledger.taken(STATE, NONE).mean == pytest.approx(0.211)
    assert ledger.taken(STATE, K).mean == pytest.approx(0.06)
    assert ledger.taken(KNOWING, NONE).mean == pytest.approx(0.251)
    assert ledger.cause.name == KNOWING


def test_what_takes_most_as_the_first_alone_is_no_cause() -> None:
    ledger = exact({NONE: 0.4, S: 0.2, K: 0.25, SK: 0.18, SKD: 0.17, SKP: 0.02, ALL: 0.01})
    assert ledger.cause == Cause(None, [STATE, PROOF])


def test_below_five_prompts_there_is_no_interval() -> None:
    ledger = Ledger({NONE: Best.known("", None, np.full(4, 0.3)), S: Best.known("", None, np.full(4, 0.1))})
    assert ledger.taken(STATE, NONE).mean == pytest.approx(0.2)
    assert np.isnan(ledger.taken(STATE, NONE).low)


@pytest.mark.parametrize("seed", range(20))
def test_a_mixture_is_the_best_that_keeps_the_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    saved_O, loss_O = random.normal(0.1, 0.1, 8), random.uniform(0, 0.1, 8) * random.integers(0, 2, 8)
    share_O = mixture(saved_O, loss_O, AT_MOST)
    best = linprog(-saved_O, np.stack([loss_O, np.ones(8)]), [AT_MOST, 1.0], method="highs")
    assert share_O @ saved_O == pytest.approx(-best.fun)
    assert share_O @ loss_O <= AT_MOST + 1e-12
    assert share_O.sum() <= 1 + 1e-12


def test_a_loss_that_few_prompts_can_not_exclude_is_allowed_for() -> None:
    def best(n: int, lost: int) -> Best:
        loss_P = (np.arange(n) < lost).astype(float)
        found = best_of("", [Option("one", np.full(n, 0.3), loss_P, loss_P)], AT_MOST)
        assert found
        return found

    assert best(20, 0).found.mean == pytest.approx(0.3)
    assert best(20, 0).least.mean == pytest.approx(0.3 * AT_MOST / 0.16843, rel=1e-3), "Clopper and Pearson's limit"
    assert best(200, 0).least.mean == pytest.approx(0.3)
    assert best(200, 20).most.mean < 0.3 * AT_MOST / 0.05
    assert best_of("", [], AT_MOST) is None
    n = 200
    replayed = best_of("", [Option("one", np.full(n, 0.3), np.zeros(n), np.ones(n))], AT_MOST)
    assert replayed
    assert (replayed.least.mean, replayed.most.mean) == pytest.approx((0.3 * AT_MOST, 0.3)), "within its limits"


@dataclass(frozen=True)
class World:
    """What each option truly saves and loses. The oracle at all layers loses 3.5 % in the deployed state."""

    state: Sequence[tuple[float, float]] = ((0.37, 0.035), (0.185, 0.004), (0.13, 0.002))
    knowing: Sequence[tuple[float, float]] = ((0.10, 0.004), (0.15, 0.015), (0.22, 0.06))
    deployed: Sequence[tuple[float, float]] = ((0.064, 0.006), (0.097, 0.012), (0.12, 0.04))
    looks: float = 0.012
    n_certified: int = 1

    def truth(self) -> dict[Imposed, float]:
        def best(options: Sequence[tuple[float, float]], looks: float = 0.0) -> float:
            saved_O, loss_O = np.array(options).T
            return float(mixture(saved_O - looks, loss_O, AT_MOST) @ (saved_O - looks))

        proven = max([0.0, *(saved for saved, _ in self.deployed[: self.n_certified])])
        figures = {
            NONE: 0.395, S: best(self.state), K: best(self.knowing), KD: best(self.knowing, self.looks),
            SK: best(self.deployed), SKD: best(self.deployed, self.looks), SKP: proven,
            ALL: max(0.0, proven - self.looks),
        }  # fmt: skip
        return {imposed: max(figures[each] for each in figures if each >= imposed) for imposed in figures}

    def measured(self, n: int, random: np.random.Generator) -> Ledger:
        """With n prompts in the pilot, and five times as many in the run."""
        hard_P, hard_run_P = random.standard_normal(n), random.standard_normal(5 * n)

        def option(saved: float, lost: float, hard_P: np.ndarray) -> Option:
            saved_P = saved * (1 + 0.25 * hard_P) + 0.02 * random.standard_normal(len(hard_P))
            loss_P = (random.uniform(size=len(hard_P)) < lost).astype(float)
            return Option("", saved_P, loss_P, loss_P)

        def less(options: Sequence[Option]) -> list[Option]:
            return [Option("", each.saved_P - self.looks, each.most_loss_P, each.most_loss_P) for each in options]

        state, knowing = ([option(*each, hard_P) for each in of] for of in (self.state, self.knowing))
        deployed = [option(*each, hard_run_P) for each in self.deployed]
        proven = [each.saved_P for each in deployed[: self.n_certified]][-1:] or [np.zeros(5 * n)]
        run_P = proven[0] - self.looks if self.n_certified else proven[0]
        found = {
            NONE: Best.known("pilot", "", option(0.395, 0.0, hard_P).saved_P), S: best_of("pilot", state, AT_MOST),
            K: best_of("pilot", knowing, AT_MOST), KD: best_of("pilot", less(knowing), AT_MOST),
            SK: best_of("run", deployed, AT_MOST), SKD: best_of("run", less(deployed), AT_MOST),
            SKP: Best.known("run", "", proven[0]), ALL: Best.known("run", "", run_P),
        }  # fmt: skip
        return Ledger({imposed: best for imposed, best in found.items() if best})


WORLDS = (
    World(),
    World(  # in which the state takes most, and hardly more
        state=((0.37, 0.035), (0.10, 0.004)),
        knowing=((0.26, 0.004), (0.3, 0.015)),
        deployed=((0.07, 0.006), (0.1, 0.04)),
    ),
)
N_DRAWN = 80


@pytest.mark.parametrize("n", [24, 40, 60, 120, 200, 300])
def test_intervals_cover_the_truth_and_hardly_ever_a_wrong_cause_is_named(n: int) -> None:
    random, covered, causes = np.random.default_rng(n), Counter[tuple[str, str]](), Counter[str]()
    for world in WORLDS * N_DRAWN:
        true, ledger = exact(world.truth()), world.measured(n, random)
        for each in RESTRICTIONS:
            first, last = (
                (ledger.taken(each, after), true.taken(each, after))
                for after in (ledger.contexts(each)[at] for at in (0, -1))
            )
            mean = ledger.on_the_mean(each), true.on_the_mean(each)
            for place, (taken, truth) in (("first", first), ("last", last), ("mean", mean)):
                covered[each, place] += taken.low - 1e-6 <= truth.mean <= taken.high + 1e-6
        causes["none" if ledger.cause.name is None else "right" if ledger.cause == true.cause else "wrong"] += 1
    assert min(covered.values()) >= 0.93 * causes.total()
    assert causes["wrong"] <= 0.05 * causes.total()


def test_a_cause_that_is_far_ahead_is_told_by_a_pilot_of_200_prompts() -> None:
    world = World(state=((0.3, 0.001),), knowing=((0.10, 0.004),), deployed=((0.08, 0.003),))
    random = np.random.default_rng(0)
    assert Counter(world.measured(200, random).cause.name for _ in range(20))[KNOWING] >= 18
