"""Texts of variants of `generate` are compared with those of normal."""

from eexit.studies.timing.generate_variants import TEXTS, beside_table, with_identity


def test_the_texts_of_a_round_are_compared_with_those_of_normal() -> None:
    timed = {"batch": 2, "round": 1, "warm_up": 3.0, "tokens": 6, "macs_full": None, "macs_required": None}
    made = [
        {**timed, "macs_executed": None, "configuration": key, "seconds": seconds, TEXTS: [first, [4, 5, 6]]}
        for key, seconds, first in (("generate/lookup", 1.0, [1, 2, 9]), ("normal", 2.0, [1, 2, 3]))
    ]
    other, normal = with_identity(made)
    assert (other["identical"], other["first_difference"], TEXTS in other) == (0.5, 2, False)
    assert (normal["identical"], normal["first_difference"]) == (None, None)
    table = beside_table([other, normal])
    assert table
    assert [next(iter(each.cells)) for each in table.columns] == ["2", "generate/lookup", "–", "–", "50.0%", "2", "3.0"]
    assert beside_table([normal]) is None
