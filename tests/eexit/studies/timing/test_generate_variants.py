"""Texts of variants of `generate` are compared with those of normal."""

from typing import Any

from eexit.studies.timing import generate_variants


def test_the_texts_of_a_round_are_compared_with_those_of_normal() -> None:
    def row(key: str, texts: list[list[int]], seconds: float) -> dict[str, Any]:
        measured = {"tokens": 6, "seconds": seconds, "macs_full": None, "macs_required": None, "macs_executed": None}
        return {
            "configuration": key,
            "batch": 2,
            "round": 1,
            "warm_up": 3.0,
            **measured,
            generate_variants.TEXTS: texts,
        }

    made = [row("generate/lookup", [[1, 2, 9], [4, 5, 6]], 1.0), row("normal", [[1, 2, 3], [4, 5, 6]], 2.0)]
    other, normal = generate_variants.with_identity(made)
    assert (other["identical"], other["first_difference"]) == (0.5, 2)
    assert (normal["identical"], normal["first_difference"]) == (None, None)
    assert generate_variants.TEXTS not in other
    table = generate_variants.beside_table([other, normal])
    assert table is not None
    first = [next(iter(column.cells)) for column in table.columns]
    assert first == ["2", "generate/lookup", "–", "–", "50.0%", "2", "3.0"]
    assert generate_variants.beside_table([normal]) is None
