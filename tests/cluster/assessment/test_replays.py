"""Which replays a search still lacks: those of whole rules, since these land together."""

import pytest

from cluster.assessment.front import Replays

WANTED = Replays({"confidence": (0.9, 0.99), "entropy": (0.5,)}, ("25", "20,25", "all"), replaced={"decide_on": "head"})


def rows_of(wanted: Replays, *rules: str, decide_on: str = "head", cost: float = 1.0) -> list[dict[str, object]]:
    keys = [key for rule in rules for key in sorted(wanted.keys(rule))]
    return [{"configuration": key, "decide_on": decide_on, "cost_run": cost} for key in keys]


def test_keys_are_those_of_the_table() -> None:
    assert WANTED.keys("entropy") == {"unfrozen/entropy/0.5@25", "unfrozen/entropy/0.5@20,25", "unfrozen/entropy/0.5"}
    gated = Replays({"confidence": (0.9,)}, ("25",), ("0.05", "0.2"))
    assert gated.keys("confidence") == {f"unfrozen/confidence/0.9@25+gate{each}" for each in ("0.05", "0.2")}


@pytest.mark.parametrize("there", [(), ("confidence",), ("entropy",), ("confidence", "entropy")])
def test_missing_are_the_rules_that_lack_a_setting(there: tuple[str, ...]) -> None:
    assert set(WANTED.missing(rows_of(WANTED, *there)).rules) == set(WANTED.rules) - set(there)


def test_half_of_a_rule_is_not_taken_for_all_of_it() -> None:
    rows = rows_of(WANTED, "confidence", "entropy")
    for at in range(len(rows)):
        lacking = WANTED.missing([*rows[:at], *rows[at + 1 :]]).rules
        assert list(lacking) == ["confidence" if "confidence" in str(rows[at]["configuration"]) else "entropy"]


def test_replays_through_a_screen_are_other_ones_and_of_those_done_twice_the_latest_counts() -> None:
    screened = rows_of(WANTED, *WANTED.rules, decide_on="screen:32:256")
    assert WANTED.missing(screened) == WANTED
    twice = [*screened, *rows_of(WANTED, *WANTED.rules), *rows_of(WANTED, "entropy", cost=2.0)]
    assert len(WANTED.of(twice)) == 9
    assert {row["cost_run"] for row in WANTED.of(twice) if "entropy" in row["configuration"]} == {2.0}
