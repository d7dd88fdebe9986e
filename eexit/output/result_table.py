"""Style of all printed tables: narrow terminals shorten keys, then break keys and intervals, never numbers.

Words of headings break at soft hyphens unless the whole table fits.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

from eexit.output.text import printable

Kind = Literal["key", "name", "number"]  # of a column: configurations, other text, numbers and their intervals

# Patterns after which the cells of a column may break; plans are tried in this order.
_NOWHERE, _ANYWHERE = "(?!)", "[^\n]"
_WORDS, _ENDS = "[-_/@,]", "–"
_PLANS: Final[Sequence[Mapping[Kind, str]]] = (
    {"key": _NOWHERE, "name": _NOWHERE, "number": _NOWHERE},
    {"key": _NOWHERE, "name": _NOWHERE, "number": _ENDS},
    {"key": _NOWHERE, "name": _WORDS, "number": _ENDS},
    {"key": "/", "name": _WORDS, "number": _ENDS},
    {"key": _WORDS, "name": _WORDS, "number": _ENDS},
    {"key": _WORDS, "name": _ANYWHERE, "number": _ENDS},
    {"key": _ANYWHERE, "name": _ANYWHERE, "number": _ENDS},
)
SOFT_HYPHEN: Final = "\u00ad"
TEXT_COLUMNS: Final = 120  # width of a table as text
_WIDENED: Final[Sequence[Kind]] = ("name", "key", "number")  # columns in the order in which they get spare room


class ResultTable(Table):
    """Table whose columns become as narrow as the console needs when it is printed."""

    def __init__(self, caption: str | None = None, title: str | None = None) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title=title, caption=caption)
        self.title_justify = self.caption_justify = "left"
        self._kinds: list[Kind] = []
        self._shorten: dict[int, Callable[[str], str]] = {}  # by column index
        self._section: object = None  # section of the last row

    def add(self, kind: Kind, *headings: str, shorten: Callable[[str], str] | None = None) -> None:
        """Add columns of one kind; headings include their line breaks.

        If the table does not fit otherwise, `shorten` is applied to the cells, and the caption explains one short cell.
        """
        for heading in headings:
            if shorten:
                self._shorten[len(self._kinds)] = shorten
            self.add_column(heading, justify="right" if kind == "number" else "left", no_wrap=True)
            self._kinds.append(kind)

    def add_in(self, section: object, *cells: str) -> None:
        """Add a row, below a line if its section differs from the previous row's."""
        if self.rows and section != self._section:
            self.add_section()
        self._section = section
        self.add_row(*cells)

    def __repr__(self) -> str:
        """Return the table as `print` and a Python prompt show it."""
        text = io.StringIO()
        Console(file=text, width=TEXT_COLUMNS, force_jupyter=False).print(self)
        return text.getvalue().rstrip("\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells_CR = [[printable(str(cell)) for cell in column.cells] for column in self.columns]
        natural = self._widths(cells_CR, _PLANS[0], hyphen="")
        unbroken = _in_style(self, cells_CR, hyphen="")
        lines = console.measure(unbroken, options=options.update(width=sum(natural) + 1000)).maximum
        room = options.max_width - (lines - sum(natural))
        example = ""
        if sum(natural) > room:
            cells_CR, example = self._shortened(cells_CR)
            natural = self._widths(cells_CR, _PLANS[0], hyphen="")
        hyphen = "" if sum(natural) <= room else "-\n"
        natural = self._widths(cells_CR, _PLANS[0], hyphen)
        plan = next((plan for plan in _PLANS if sum(self._widths(cells_CR, plan, hyphen)) <= room), _PLANS[-1])
        widths = self._widths(cells_CR, plan, hyphen)
        while sum(widths) < min(room, sum(natural)):
            narrowed = [at for at, width in enumerate(widths) if width < natural[at]]
            widths[min(narrowed, key=lambda at: (_WIDENED.index(self._kinds[at]), widths[at] / natural[at]))] += 1
        broken_CR = [
            [_broken(cell, plan[kind], width) for cell in cells]
            for cells, kind, width in zip(cells_CR, self._kinds, widths, strict=True)
        ]
        yield _in_style(self, broken_CR, hyphen, example)

    def _shortened(self, cells_CR: Sequence[Sequence[str]]) -> tuple[list[list[str]], str]:
        """Return the cells after shortening, and an explanation of the longest cell that was shortened."""
        short_CR = [[self._shorten.get(at, str)(cell) for cell in cells] for at, cells in enumerate(cells_CR)]
        changed = {
            cell: short
            for cells, shorts in zip(cells_CR, short_CR, strict=True)
            for cell, short in zip(cells, shorts, strict=True)
            if cell != short
        }
        longest = max(changed, key=len, default="")
        return short_CR, f"{changed[longest]}: {longest}." if changed else ""

    def _widths(self, cells_CR: Sequence[Sequence[str]], plan: Mapping[Kind, str], hyphen: str) -> list[int]:
        """Return the minimum width of each column if its cells break wherever the plan allows it."""
        return [
            max(cell_len(part.rstrip()) for text, after in texts for part in _parts(text, after))
            for texts in (
                [(_heading(column, hyphen), _NOWHERE), *((cell, plan[kind]) for cell in cells)]
                for column, cells, kind in zip(self.columns, cells_CR, self._kinds, strict=True)
            )
        ]


def _heading(column: Column, hyphen: str) -> str:
    return str(column.header).replace(SOFT_HYPHEN, hyphen)


def _in_style(table: Table, cells_CR: Sequence[Sequence[str]], hyphen: str, example: str = "") -> Table:
    """Return a plain table in the style of `table` with these cells, and with the example at the end of its caption."""
    caption = printable(f"{table.caption or ''} {example}".strip()) or None
    plain = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding, title=table.title, caption=caption)
    plain.title_justify, plain.caption_justify = table.title_justify, table.caption_justify
    for column in table.columns:
        plain.add_column(_heading(column, hyphen), justify=column.justify, no_wrap=True)
    for row, *cells in zip(table.rows, *cells_CR, strict=True):
        plain.add_row(*cells, end_section=row.end_section)
    return plain


def _parts(text: str, after: str) -> list[str]:
    """Return the lines of a text, cut after every match of `after`."""
    return [part for line in text.split("\n") for part in re.split(f"(?<={after})", line)]


def _broken(text: str, after: str, width: int) -> str:
    """Return the text with as few line breaks as possible; a piece that is wider than `width` stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for part in _parts(line, after):
            if lines[-1] and cell_len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
