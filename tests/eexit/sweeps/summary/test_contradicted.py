"""Exits that the final layer contradicts, over all decided tokens of `normal`, by hand."""

from dataclasses import replace

import pytest
from scripted import predicted

from eexit.plan.configuration import EarlyExit, NoExit
from eexit.quality.estimates import Estimate
from eexit.sweeps.summary.contradicted import Contradicted, contradicted_rules, on_normal

CONFIDENCE = EarlyExit("skip", "confidence", 0.9)
# Of six runs, each exits at layer 3, wrong and right; at 6, wrong; and not before the final layer, twice.
LAYERS = (3, 6, 9)
WRONG_AT_6 = [(0.1, 7), (0.97, 1), (0.95, 7)]
AT_3 = [(0.95, 1), (0.95, 7), (0.95, 7)], [(0.95, 7)] * 3
SAID = [*AT_3, WRONG_AT_6, [(0.2, 7), (0.89, 7), (0.9, 7)], [(0.5, 7)] * 3]
RUNS = {f"{number}": f"prompt {number}" for number in range(6)}
OTHERS = [("0", False, WRONG_AT_6), ("not of normal", True, WRONG_AT_6)]


def test_exits_of_rules_follow_from_what_layers_recorded_with_exit_sets_and_thresholds() -> None:
    at_6, margin = replace(CONFIDENCE, layers=(6,)), EarlyExit("unfrozen", "margin", 0.955)
    unknown = [EarlyExit("skip", rule, 3.0) for rule in ("entropy", "patience", "fixed")]
    gated = replace(CONFIDENCE, gate="0.1")
    recorded = predicted([*((run_id, True, each) for run_id in RUNS for each in SAID), *OTHERS])
    found = on_normal(recorded, RUNS, {}, LAYERS, [CONFIDENCE, at_6, margin, gated, *unknown, NoExit()])
    shares = {key: [each.share.mean, each.n_exits, each.share.n] for key, each in found.items()}
    expected = {CONFIDENCE.key: [2 / 3, 18, 6], at_6.key: [1 / 3, 18, 6], margin.key: [1.0, 6, 6]}
    assert shares == {key: pytest.approx(numbers) for key, numbers in expected.items()}
    assert 0 < found[margin.key].share.low < found[margin.key].share.high == 1
    group = {"prompt 0": "group", "prompt 1": "group"}
    (grouped,) = on_normal(recorded, RUNS, group, LAYERS, [CONFIDENCE]).values()
    assert [grouped.share.mean, grouped.n_exits, grouped.share.n] == pytest.approx([2 / 3, 18, 5])


def test_a_warning_has_the_interval_and_the_number_of_exits() -> None:
    found = Contradicted(Estimate(0.64, 0.571, 0.709, 40), 1812)
    assert contradicted_rules({CONFIDENCE: found, EarlyExit("skip", "kl", 1.0): found}) == (
        "Careful: while the text is normal's, the final layer contradicts most early exits of skip/confidence/0.9 "
        "(64.0% [57.1, 70.9] of 1,812 exits)."
    )
