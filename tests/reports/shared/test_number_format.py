"""Numbers in sentences, with their intervals."""

import pytest

from reports.shared.number_format import format_saving, with_interval


def test_a_finding_says_where_a_number_rests_on_fewer_prompts() -> None:
    row = {"equal_share": 0.5, "equal_share_low": 0.4, "equal_share_high": 0.6, "equal_share_n": 6, "n": 6}
    assert with_interval(row, "equal_share") == "50.0% [40.0%, 60.0%]"
    assert with_interval(row | {"equal_share_n": 5}, "equal_share") == "50.0% [40.0%, 60.0%] (n = 5)"


@pytest.mark.parametrize(
    ("share", "low", "high", "said"),
    [
        (0.05, 0.04, 0.065, "5.0% less time (4.0 to 6.5)"),
        (-0.005, -0.006, -0.004, "0.5% more time (0.4 to 0.6)"),
        (0.092, -0.061, 0.122, "9.2% less time, not certainly (−6.1 to 12.2)"),
        (-0.02, -0.05, 0.01, "2.0% more time, not certainly (−1.0 to 5.0)"),
        (0.05, None, None, "5.0% less time"),
    ],
)
def test_what_may_be_less_or_more_is_not_said_to_be_certain(
    share: float, low: float | None, high: float | None, said: str
) -> None:
    assert format_saving(share, low, high, "time") == said
