"""Tables in 80 columns: keys are shortened, or broken at / if at all, and numbers never."""

from rich.console import Console

from eexit.output.result_table import ResultTable
from eexit.plan.configuration import short_name

KEYS = ("normal", "unfrozen/kl/0.5", "frozen_residual/kl/0.5", "frozen_residual/predicted_kl/0.125")
NUMBERS = ("4.50", "4.47–4.53", "1,234", "0.01234", "12.0%", "123.4", "88,888,888")
HEADINGS = ("co\u00adherence", "com\u00adpleteness", "clarity", "repe\u00adtition", "score", "prompts", "cost")
SHORTENED = """
                   co-      com-           repe-
 configuration herence pleteness clarity  tition score prompts       cost
 ────────────────────────────────────────────────────────────────────────
 normal           4.50 4.47–4.53   1,234 0.01234 12.0%   123.4 88,888,888
 U·kl .5          4.50 4.47–4.53   1,234 0.01234 12.0%   123.4 88,888,888
 F·kl .5          4.50 4.47–4.53   1,234 0.01234 12.0%   123.4 88,888,888
 F·pkl .125       4.50 4.47–4.53   1,234 0.01234 12.0%   123.4 88,888,888

Means over prompts. F·pkl .125: frozen_residual/predicted_kl/0.125.
"""


def printed(table: ResultTable, columns: int = 80) -> list[str]:
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert max(map(len, lines)) <= columns
    return lines


def test_keys_are_shortened_where_they_do_not_fit_and_numbers_never_broken() -> None:
    table = ResultTable("Means over prompts.")
    table.add("key", "configuration", shorten=short_name)
    table.add("number", *HEADINGS)
    for key in KEYS:
        table.add_row(key, *NUMBERS)
    assert printed(table) == SHORTENED.splitlines()
    text = "\n".join(printed(table, 125))
    assert all(f" {key} " in text for key in (*KEYS, "coherence"))
    assert [line.rstrip() for line in repr(table).splitlines()] == printed(table, 120), "at a Python prompt"
    assert str(table) == repr(table)


def test_a_key_is_broken_elsewhere_only_where_it_does_not_fit_and_what_moves_the_cursor_is_shown_and_not_done() -> None:
    table = ResultTable()
    table.add("key", "setting")
    table.add("number", "n")
    table.add_row("frozen_residual/kl/0.5", "1,234,567")
    assert [line.split() for line in printed(table, 28)[3:-1]] == [["frozen_residual/", "1,234,567"], ["kl/0.5"]]
    assert [line.split() for line in printed(table, 22)[3:-1]] == [["frozen_", "1,234,567"], ["residual/"], ["kl/0.5"]]
    table = ResultTable("Computed in \x1b[31mfloat32.")
    table.add("key", "configuration")
    table.add_row("a\x1b]0;title\x07b")
    said = "\n".join(printed(table))
    assert "a\\x1b]0;title\\x07b" in said
    assert "\\x1b[31mfloat32." in said
    assert not {"\x1b", "\x07"} & {*said}
