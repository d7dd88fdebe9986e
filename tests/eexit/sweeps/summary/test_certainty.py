"""At which depth tokens are sure and confirmed, by hand: two kinds of prompts, a group, and two seeds of a prompt."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scripted import Predictions, predicted

from eexit.sweeps.summary.certainty import ALL, confidence_by_depth

LAYERS = (3, 6, 9)  # the last is the final one, whose likeliest token is 7
FROM_THE_FIRST: Predictions = [(0.95, 1), (0.95, 7), (0.95, 7)]  # sure, and confirmed from the second on
AT_THE_END: Predictions = [(0.2, 7), (0.89, 7), (0.9, 7)]
NEVER_SURE: Predictions = [(0.5, 7)] * len(LAYERS)
KINDS = {"fact-1": "fact", "fact-2": "fact", "fact-3": "fact", "sum-1": "sum"}
UNITS = {"fact-1": "1", "fact-2": "a group", "fact-3": "a group", "sum-1": "4", "x": "5"}
TEXTS: Mapping[str, Sequence[Predictions]] = {  # of fact-2, a seed more than of the group's other prompt
    "fact-1": [FROM_THE_FIRST, FROM_THE_FIRST, AT_THE_END, NEVER_SURE], "fact-1 again": [FROM_THE_FIRST],
    "fact-2": [FROM_THE_FIRST], "fact-2 again": [FROM_THE_FIRST], "fact-3": [NEVER_SURE], "sum-1": [AT_THE_END],
    "x": [NEVER_SURE], "not of normal": [FROM_THE_FIRST],
}  # fmt: skip
RUNS = {run_id: run_id.removesuffix(" again") for run_id in TEXTS if run_id != "not of normal"} | {"failed": "x"}


def recorded(texts: Mapping[str, Sequence[Predictions]]) -> list[pa.RecordBatch]:
    """The first token of each text would be sure everywhere."""
    first = [(1.0, 7)] * 3
    return predicted((run_id, at > 0, said) for run_id in texts for at, said in enumerate([first, *texts[run_id]]))


def of_prompts(texts: Mapping[str, Sequence[Predictions]]) -> pd.DataFrame:
    ids = {run_id: run_id for run_id in texts}
    return confidence_by_depth(recorded(texts), ids, LAYERS, {}, ids)


def column(found: pd.DataFrame, name: str, kind: str = ALL) -> list[float]:
    return [float(value) for value in found.loc[found["kind"] == kind, name]]


def test_shares_are_means_over_prompts_of_means_over_runs_and_kinds_differ() -> None:
    both = confidence_by_depth(recorded(TEXTS), RUNS, LAYERS, KINDS, UNITS, (0.5, 0.9))
    assert column(both[both["threshold"] == 0.5], "confirmed", "sum") == [0, 1, 1]
    found = both[both["threshold"] == 0.9]
    assert list(dict.fromkeys(found["kind"])) == [ALL, "fact", "sum"]
    assert list(found["layer"]) == [*LAYERS] * 3
    # Prompt 1: of its runs, 2 of 4 and 1 of 1; the group: 1 of 1 and 0 of 1.
    assert column(found, "sure", "fact") == pytest.approx([(0.75 + 0.5) / 2] * 2 + [(0.875 + 0.5) / 2])
    assert column(found, "confirmed", "fact") == pytest.approx([0, (0.75 + 0.5) / 2, (0.875 + 0.5) / 2])
    assert column(found, "sure", "sum") == [0, 0, 1]
    assert column(found, "sure") == pytest.approx([(0.75 + 0.5) / 4] * 2 + [(0.875 + 0.5 + 1) / 4])
    assert {kind: column(found, "sure_n", kind)[0] for kind in (ALL, "fact", "sum")} == {ALL: 4, "fact": 2, "sum": 1}
    assert column(found, "first_sure", "sum") == column(found, "first_confirmed", "sum") == [9, 9, 9]
    # Of fact-1, 3, 3 and 9, then 3; of the group, 3 and none; where they are confirmed 6, 6 and 9, then 6; and 6.
    assert (column(found, "first_sure", "fact"), column(found, "first_confirmed", "fact")) == ([3] * 3, [6] * 3)


def test_the_first_layer_is_a_median_that_is_a_layer_over_tokens_whose_final_layer_is_sure() -> None:
    found = of_prompts({"a": [FROM_THE_FIRST, AT_THE_END], "b": [AT_THE_END]})
    assert (found["first_sure"][0], found["first_confirmed"][0]) == (3, 6), "no median lies between two layers"
    found = of_prompts({"a": [[(0.95, 7), (0.95, 7), (0.5, 7)], NEVER_SURE]})
    assert found[["first_sure", "first_confirmed"]].isna().all(axis=None), "the final layer itself is never sure"
    assert list(found["sure"]) == [0.5, 0.5, 0]


def test_exits_are_contradicted_confirmations_taken_back_and_intervals_over_prompts() -> None:
    """Four tokens of a run: one exits at layer 3 and is wrong, one there and right, one at layer 6 and right, none."""
    taken_back = [(0.95, 7), (0.95, 1), (0.95, 7)]
    said = [FROM_THE_FIRST, taken_back, [(0.5, 7), (0.95, 7), (0.95, 7)], AT_THE_END]
    found = of_prompts({f"{number}": said for number in range(6)})
    assert column(found, "contradicted") == pytest.approx([1 / 2, 0, math.nan], nan_ok=True)
    assert column(found, "exits_contradicted") == pytest.approx([1 / 3] * 3)
    assert column(found, "taken_back") == pytest.approx([1 / 3] * 3), "of the first three, which are confirmed early"
    assert column(found, "taken_back_n") == [6] * 3
    assert found["taken_back_low"][0] <= found["taken_back"][0] <= found["taken_back_high"][0]
    found = of_prompts({f"{number}": [FROM_THE_FIRST if number < 3 else AT_THE_END] for number in range(6)})
    first = found.drop(columns="kind").iloc[0]
    assert (first["sure"], first["sure_n"]) == (0.5, 6)
    assert 0.1 < first["sure_low"] < 0.2 < 0.8 < first["sure_high"] < 0.9, "Clopper and Pearson's, for 3 of 6"
    assert [*first[["first_sure_low", "first_sure", "first_sure_high"]]] == [3, 3, 9]
    assert column(found, "confirmed") == [0, 0.5, 1]


def test_what_is_no_probability_is_refused_and_without_what_layers_predict_there_is_no_row() -> None:
    assert confidence_by_depth(predicted([("x", True, ())]), {"x": "x"}, LAYERS, KINDS, UNITS).empty
    no_probabilities: list[Any] = [0, 1.5, math.nan, "a"]
    for threshold in no_probabilities:
        with pytest.raises(ValueError, match="sure must be a probability above 0"):
            confidence_by_depth([], {}, LAYERS, {}, {}, [threshold])
