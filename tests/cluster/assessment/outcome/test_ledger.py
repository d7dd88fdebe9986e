"""The ledger adds up, each of its lines can be the largest, and its intervals cover what is true of all prompts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from options import option, options_of

from cluster.assessment.outcome.ledger import LedgerOptions, Option, Proven, ledger_of
from eexit.quality.estimates import Estimate
from eexit.studies.verdict_file import DECIDING, MODEL, PROOF, RESTRICTIONS

AT_MOST = 0.02


def drawn_options(generator: np.random.Generator, scale: float = 1.0) -> LedgerOptions:
    """Figures as an assessment of the default model can have them: an oracle saves about a quarter of full depth."""
    below = generator.random(6) ** generator.choice([0.02, 1.0, 8.0], 6)  # hardly less, some less, far less
    ceiling = generator.uniform(0.2, 0.35)
    state, knowing, saved = ceiling * below[:3].cumprod()
    run = saved - 0.3 * (1 - below[3])
    allowed = saved * below[4]
    time = 1 - scale * (allowed - (saved - run) - 0.3 * (1 - below[5]))
    ends = Estimate(time, time - 0.02 * scale, time + 0.02 * scale, 8)
    proven = (scale * saved, scale * run, {8: scale * allowed}, {8: ends})
    return options_of(scale * ceiling, scale * state, scale * knowing, proven if generator.random() < 0.8 else None)


def test_lines_add_up_every_one_can_be_the_cause_and_scale_does_not_matter() -> None:
    causes = Counter[str]()
    for seed in range(2000):
        ledger = ledger_of(drawn_options(np.random.default_rng(seed)), AT_MOST, 8)
        assert ledger.ceiling.mean - sum(line.taken.mean for line in ledger.lines) == pytest.approx(
            ledger.lines[-1].left, abs=1e-9
        )
        assert all(line.taken.mean >= 0 for line in ledger.lines[:3])
        assert ledger.cause == ledger_of(drawn_options(np.random.default_rng(seed), scale=0.03), AT_MOST, 8).cause
        causes[ledger.cause] += 1
    assert set(causes) == {*RESTRICTIONS}
    assert min(causes.values()) >= 20


def test_where_the_oracle_saves_nothing_it_is_the_models() -> None:
    assert ledger_of(options_of(0.0, 0.0, 0.0), AT_MOST).cause == MODEL


def test_only_what_keeps_the_bound_counts_and_restrictions_never_help() -> None:
    bold, safe = option("bold", 0.2, loss=0.021), option("safe", 0.05, loss=0.02)
    options = replace(options_of(0.3, 0.0, 0.0), in_state=[bold], online=[bold, safe])
    ledger = ledger_of(options, AT_MOST)
    assert [(line.restriction, line.key, round(line.left, 9)) for line in ledger.lines] == [
        ("state", "safe", 0.05),  # what an online rule can do, an oracle can
        ("knowing", "safe", 0.05),
        ("proof", None, 0.0),
        ("deciding", None, 0.0),
    ]
    assert ledger_of(replace(options, online=[bold]), AT_MOST).lines[0].key is None


def test_what_would_not_be_taken_if_it_were_certified_is_lost_to_deciding_not_to_proof() -> None:
    costly = option("costly", 0.2, run=-0.5)
    ledger = ledger_of(replace(options_of(0.3, 0.3, 0.0), online=[costly]), AT_MOST)
    assert [(line.restriction, line.key, round(line.taken.mean, 9)) for line in ledger.lines] == [
        ("state", "state", 0.0),
        ("knowing", "costly", 0.1),
        ("proof", "costly", 0.0),
        ("deciding", None, 0.2),
    ]
    cheap = option("cheap", 0.2, run=0.15)  # it would be taken, if it were certified
    assert ledger_of(replace(options_of(0.3, 0.3, 0.0), online=[costly, cheap]), AT_MOST).cause == DECIDING
    assert ledger_of(replace(options_of(0.3, 0.3, 0.0), online=[cheap]), AT_MOST).cause == PROOF
    proven = options_of(0.3, 0.3, 0.0, (0.02, 0.02, {}, {}))
    assert ledger_of(replace(proven, online=[costly]), AT_MOST).cause == DECIDING


def test_what_was_not_timed_ends_the_ledger() -> None:
    options = options_of(0.3, 0.2, 0.1, (0.1, 0.05, {8: 0.04}, {}))
    assert [line.restriction for line in ledger_of(options, AT_MOST, 8).lines] == list(RESTRICTIONS[:4])
    options = options_of(0.3, 0.2, 0.1, (0.1, 0.05, {}, {8: Estimate(0.98, 0.97, 0.99, 8)}))
    assert [line.restriction for line in ledger_of(options, AT_MOST, 8).lines] == [*RESTRICTIONS[:4], "overhead"]


def test_intervals_are_those_of_the_draws_and_of_the_clock() -> None:
    generator = np.random.default_rng(0)
    saved_D = 0.3 + np.concatenate([[0.0], generator.normal(0, 0.01, 4000)])
    zero_D = np.zeros_like(saved_D)
    top = Option("top", saved_D, saved_D, zero_D, 100)
    tenth_D = zero_D + 0.1
    proven = Proven(Option("p", tenth_D, tenth_D, zero_D, 100), {}, {1: Estimate(0.95, 0.93, 0.97, 8)})
    ledger = ledger_of(LedgerOptions(top, [], [], proven), AT_MOST, 1)
    state, overhead = ledger.lines[0].taken, ledger.lines[-1].taken
    assert (state.mean, state.low, state.high) == pytest.approx((0.2, 0.2 - 0.0196, 0.2 + 0.0196), abs=1e-3)
    assert (overhead.mean, overhead.low, overhead.high) == pytest.approx((0.05, 0.03, 0.07), abs=2e-3)
    few = ledger_of(LedgerOptions(replace(top, n=4), [], [], proven), AT_MOST, 1)
    assert np.isnan(few.lines[0].taken.low), "no interval below five prompts"
