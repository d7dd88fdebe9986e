"""Compact tables of text, a line for each row."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """Table whose cells are text; the first column has names."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def printed(self) -> str:
        """Return the table as commands print it: its caption, then a line per row."""
        lines = [self.heads, *self.rows]
        names, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [[row[0].ljust(names), *map(str.rjust, row[1:], others)] for row in lines]
        return "\n".join([*filter(None, [self.caption]), *("  ".join(row).rstrip() for row in rows)])
