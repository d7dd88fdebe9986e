import math

import numpy as np
import pytest

from eexit.quality.text_metrics import Agreement, agreement, disagreement, distinct, longest_loop, perplexity


@pytest.mark.parametrize(
    ("tokens", "normal", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], Agreement(4, 1.0, 1.0)),
        ([1, 2, 9, 4], [1, 2, 3, 4], Agreement(2, 0.75, 0.75)),
        ([2, 3, 4, 1], [1, 2, 3, 4], Agreement(0, 0.0, 0.75)),
        ([1, 2], [1, 2, 3, 4], Agreement(2, 0.5, 0.5)),
        ([1, 2, 3, 4, 5], [1], Agreement(1, 0.2, 0.2)),
    ],
)
def test_agreement(tokens: list[int], normal: list[int], expected: Agreement) -> None:
    assert agreement(np.array(tokens), np.array(normal)) == expected


def test_perplexity_disagreement_and_distinct_ngrams() -> None:
    assert perplexity(np.full(7, math.log(1 / 8), np.float32)) == pytest.approx(8), "even odds"
    assert disagreement(np.array([2, 3, 4, 5]), np.array([2, 3, 7, 5])) == 0.25
    assert disagreement(np.array([]), np.array([])) is None
    assert (distinct([1, 2, 1, 2, 1], 2), distinct([1, 2, 3], 3), distinct([1, 2], 3)) == (0.5, 1.0, None)


@pytest.mark.parametrize(
    ("tokens", "length"),
    [
        ([1, 2, 3, 4], 0),
        ([1, 2, 2, 3], 2),
        ([9, 1, 2, 3, 1, 2, 3, 1, 2], 8),
        ([5, 5, 5, 5, 5], 5),
        ([1, 2, 3, 1, 2, 4], 0),
        ([7], 0),
    ],
)
def test_the_longest_loop_repeats_a_whole_piece(tokens: list[int], length: int) -> None:
    assert longest_loop(np.array(tokens)) == length
