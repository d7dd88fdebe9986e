"""Ranges of parameters: their values, and invalid ones."""

import math

import pytest

from eexit.errors import UsageError
from eexit.plan.grids import parse_numbers, parse_rules


def test_factors_and_nats_are_spaced_by_equal_ratios_and_shares_cosines_and_layers_linearly() -> None:
    factors = parse_numbers(["0.25:16:13"], "1/nat", "--kl-factors")
    assert (factors[0], factors[4], factors[-1], len(factors)) == (0.25, 1.0, 16.0, 13)
    assert factors[1::4] == (0.3536, 1.414, 5.657)
    assert [math.log2(factor) for factor in factors] == pytest.approx([-2 + index / 2 for index in range(13)], abs=1e-3)
    assert parse_numbers(["0", "0.5,1", "2:8:3"], "1/nat", "k") == (0, 0.5, 1, 2, 4, 8), "beside single numbers"
    assert parse_rules(
        ["confidence=0.5:0.9:5", "entropy=0.1:10:3", "similarity=-1:1:3", "fixed=5:25:5", "predicted_kl=1:4:3", "agree"]
    ) == {
        "confidence": (0.5, 0.6, 0.7, 0.8, 0.9), "entropy": (0.1, 1, 10), "similarity": (-1, 0, 1),
        "fixed": (5, 10, 15, 20, 25), "predicted_kl": (1, 2, 4), "agree": (),
    }  # fmt: skip
    for texts in (["=1"], ["agree", "agree"], ["kl=1", "kl=2"]):
        with pytest.raises(UsageError, match="give each rule once"):
            parse_rules(texts)


def test_nonsense_is_told_in_a_line() -> None:
    for text, message in (
        ("much", "much is not a number"),
        (":2:3", "nothing in :2:3 is not a number"),
        ("1:2", "1:2 is neither a number nor a range LOW:HIGH:N"),
        ("1:2:3:4", "1:2:3:4 is neither a number nor a range"),
        ("1:2:1", "a range has 2 to 1,000 values, got 1 in 1:2:1"),
        ("1:2:", "a range has 2 to 1,000 values, got none in 1:2:"),
        ("2:1:3", "from its lower end to its higher one, got 2:1:3"),
        ("1:1:3", "from its lower end to its higher one, got 1:1:3"),
        ("0:1:3", "equal ratios and starts above 0, got 0:1:3"),
        ("1:1.001:9", "1:1.001:9 has more values than 4 digits"),
        ("1:inf:3", "1:inf:3 is not finite"),
        ("nan", "nan is not finite"),
    ):
        with pytest.raises(UsageError, match=f"^k: .*{message}"):
            parse_numbers([text], "1/nat", "k")
