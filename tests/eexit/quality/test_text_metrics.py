import math

import numpy as np
import pytest

from eexit.quality.text_metrics import Agreement, agreement, disagreement, distinct, longest_loop, perplexity


def test_metrics_are_those_counted_by_hand() -> None:
    for tokens, reference, expected in (
        ([1, 2, 3, 4], [1, 2, 3, 4], Agreement(4, 1.0, 1.0)),
        ([1, 2, 9, 4], [1, 2, 3, 4], Agreement(2, 0.75, 0.75)),
        ([2, 3, 4, 1], [1, 2, 3, 4], Agreement(0, 0.0, 0.75)),
        ([1, 2], [1, 2, 3, 4], Agreement(2, 0.5, 0.5)),
        ([1, 2, 3, 4, 5], [1], Agreement(1, 0.2, 0.2)),
    ):
        assert agreement(np.array(tokens), np.array(reference)) == expected
    assert perplexity(np.full(7, math.log(1 / 8), np.float32)) == pytest.approx(8), "even odds"
    assert disagreement(np.array([2, 3, 4, 5]), np.array([2, 3, 7, 5])) == 0.25
    assert disagreement(np.array([]), np.array([])) is None
    assert (distinct([1, 2, 1, 2, 1], 2), distinct([1, 2, 3], 3), distinct([1, 2], 3)) == (0.5, 1.0, None)
    looping = {2: [1, 2, 2, 3], 8: [9, 1, 2, 3, 1, 2, 3, 1, 2], 5: [5, 5, 5, 5, 5]}
    for length, tokens in (*looping.items(), *((0, each) for each in ([1, 2, 3, 4], [1, 2, 3, 1, 2, 4], [7]))):
        assert longest_loop(np.array(tokens)) == length, tokens
