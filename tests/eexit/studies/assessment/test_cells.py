"""The four cells and the gains: against their definition, at the edges, and how often intervals cover the truth."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from assessment_worlds import BOUND, WORLDS, Drawn, World

from eexit.studies.assessment.cells import AS_RUN, CELLS, CERTIFIED, COSTS_OF, GAINS, Attribution, PromptTable, Shares

AT_MOST = BOUND.max_risk
SUMS = {**{name: {name: 1.0} for name in (*CELLS, AS_RUN, CERTIFIED)}, **GAINS, **COSTS_OF}


def attribution_of(drawn: Drawn) -> Attribution:
    table = PromptTable([drawn.run, drawn.oracles], BOUND.risk)
    return Attribution(table, drawn.settings, AT_MOST, drawn.choice["configuration"])


def test_shares_lose_the_bound_or_less_and_lose_none_of_what_it_allows() -> None:
    safe_K, bold_K = np.random.default_rng(0).uniform(0, 0.06, (2, 10_000))
    shares = Shares.at_bound(safe_K, bold_K, AT_MOST)
    lost_K = shares.safe * safe_K + shares.bold * bold_K
    assert ((shares.safe >= 0) & (shares.bold >= 0) & (shares.safe + shares.bold <= 1 + 1e-12)).all()
    assert (lost_K <= AT_MOST + 1e-12).all()
    assert lost_K[bold_K > AT_MOST] == pytest.approx(AT_MOST), "all that the bound allows"
    assert (shares.bold[bold_K <= AT_MOST] == 1).all()


def test_cells_are_what_the_runs_say() -> None:
    drawn = Drawn(World(), 200, np.random.default_rng(1))
    runs = {"run": drawn.run.runs.to_pandas(), "oracles": drawn.oracles.runs.to_pandas()}
    right = runs["run"].query("configuration == 'normal'").set_index("prompt_id")["correct"]

    def rates(sweep: str, key: str | None) -> tuple[float, float]:
        if key is None:
            return 0.0, 0.0
        of = runs[sweep].query("configuration == @key").set_index("prompt_id")
        return float((right & ~of["correct"]).mean()), 1 - of["macs_to_exit"].sum() / of["macs_full"].sum()

    found = attribution_of(drawn)
    assert found.estimate({"A": 1}).mean == pytest.approx(rates("oracles", drawn.settings.A.bold)[1])
    for cell, sweep in (("B", "oracles"), ("C", "run"), ("D", "run")):
        (safe_loss, safe), (bold_loss, bold) = (rates(sweep, key) for key in getattr(drawn.settings, cell))
        weight = 1.0 if bold_loss <= AT_MOST else (AT_MOST - safe_loss) / (bold_loss - safe_loss)
        assert 0 <= weight <= 1, "the pilot of this seed picked neighbours of the bound"
        assert found.estimate({cell: 1}).mean == pytest.approx((1 - weight) * safe + weight * bold)
        assert found.mixture(cell)[2] == pytest.approx((1 - weight) * safe_loss + weight * bold_loss)
    levels = {name: found.estimate({name: 1}).mean for name in (*CELLS, AS_RUN, CERTIFIED)}
    for weights in SUMS.values():
        assert found.estimate(weights).mean == pytest.approx(sum(weights[each] * levels[each] for each in weights))


def test_a_failed_run_saves_nothing_and_loses_and_few_prompts_have_no_interval() -> None:
    drawn = Drawn(World(), 200, np.random.default_rng(1))
    key = drawn.settings.C.bold
    table = drawn.run.runs.to_pylist()
    before = PromptTable([drawn.run, drawn.oracles], BOUND.risk)
    for row in [row for row in table if row["configuration"] == key][:10]:
        row |= {"status": "error", "macs_full": None, "macs_to_exit": None, "macs_executed": None, "correct": None}
    failed = replace(drawn.run, runs=pa.Table.from_pylist(table, drawn.run.runs.schema))
    after = PromptTable([failed, drawn.oracles], BOUND.risk)
    assert after.n == before.n
    assert after.lost(key).sum() == pytest.approx(before.lost(key).sum() + 10, abs=3)
    assert 0 < before.saved(key).mean() - after.saved(key).mean() < 0.05 * before.saved(key).mean() * 3
    is_few = pc.field("prompt_id").isin(["0", "1", "2", "3"])
    few = [replace(each, runs=each.runs.filter(is_few)) for each in (drawn.run, drawn.oracles)]
    found = Attribution(PromptTable(few, BOUND.risk), drawn.settings, AT_MOST, None).estimate({"A": 1})
    assert (found.n, np.isnan(found.low)) == (4, True)


@pytest.mark.parametrize(
    ("n", "n_drawn", "least", "share"),
    [(200, 5, 3, 0.93), *(pytest.param(n, 300, 267, 0.94, marks=pytest.mark.slow) for n in (200, 1700))],
)
def test_intervals_cover_truths_in_six_worlds(n: int, n_drawn: int, least: int, share: float) -> None:
    """At least 93 % truly: of 300 draws, which take ten minutes, 267 or more with a chance of 99.9 % then."""
    covered: dict[str, Counter[str]] = {}
    for name in ("pays", "costs more", "ceiling", "mode", "knowledge", "proof"):
        of_world = covered.setdefault(name, Counter())
        for seed in range(n_drawn):
            drawn = Drawn(WORLDS[name][0], n, np.random.default_rng([7, seed]))
            found, levels = attribution_of(drawn), drawn.true_levels()
            for each, of in SUMS.items():
                estimate, truth = found.estimate(of), sum(of[level] * levels[level] for level in of)
                of_world[each] += estimate.low - 1e-9 <= truth <= estimate.high + 1e-9
    assert not {(name, each) for name, of_world in covered.items() for each in SUMS if of_world[each] < least}
    assert sum(of_world.total() for of_world in covered.values()) >= share * n_drawn * len(covered) * len(SUMS)
