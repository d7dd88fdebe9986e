"""What of a timing is left out for want of time: larger batch sizes and later rounds, never the first of either."""

import time

import pytest

from eexit.studies.timing.time_left import TimeLeft


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def timed(left: TimeLeft, clock: Clock, seconds_by_batch: dict[int, float], n_rounds: int) -> list[tuple[int, int]]:
    """The batch sizes and rounds that are timed, if two parts of each take so long together."""
    done = []
    for number in range(n_rounds + 1):
        for batch, seconds in seconds_by_batch.items():
            for _ in range(2):
                if left.has_time_for(batch, number):
                    clock.now += seconds / 2
                    done.append((batch, number))
    return list(dict.fromkeys(done))


TAKES = {1: 1.0, 8: 4.0, 32: 10.0}


@pytest.mark.parametrize(
    ("seconds", "batches", "n_rounds"),
    [
        (1000, [1, 8, 32], 5),
        (61, [1, 8, 32], 3),  # 15 to warm up, and 15 for each round
        (60, [1, 8, 32], 3),
        (59, [1, 8, 32], 2),
        (29, [1, 8], 4),  # 32 rows may take 4 times as long as 8, twice
        (5, [1], 4),
        (2, [1], 1),
        (0, [1], 1),
    ],
)
def test_as_many_batch_sizes_and_then_rounds_as_fit(
    clock: Clock, seconds: float, batches: list[int], n_rounds: int
) -> None:
    expected = [(batch, number) for number in range(n_rounds + 1) for batch in batches]
    assert timed(TimeLeft(seconds), clock, TAKES, 5) == expected


def test_without_a_limit_everything_is_timed(clock: Clock) -> None:
    assert len(timed(TimeLeft(), clock, TAKES, 5)) == 6 * 3
