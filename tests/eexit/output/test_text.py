"""Numbers as text: what rounds to zero has no sign, and what is not known is a dash."""

import math

from eexit.output.text import format_number, in_python


def test_a_number_is_written_as_format_does_but_for_zero() -> None:
    for number, form, expected in (
        (-0.0004, ".1%", "0.0%"), (-0.0006, ".1%", "-0.1%"), (-0.04, "+.1f", "+0.0"), (-1234.5, ",.1f", "-1,234.5"),
        (0.98765, ".3g", "0.988"), (math.inf, ".1f", "inf"), (math.nan, ".1f", "–"), (None, ".1%", "–"),
    ):  # fmt: skip
        assert format_number(number, form) == expected


def test_advice_to_a_caller_has_arguments_in_place_of_flags() -> None:
    said = "give --use my rule.py or --use a/mine.py (SHA-256 01…), --max-new-tokens 5 or --other"
    expected = "give use my rule.py or use='a/mine.py' (SHA-256 01…), max_new_tokens 5 or --other"
    assert in_python(said, ["use", "max_new_tokens"]) == expected
