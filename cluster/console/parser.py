"""The parser of every command: it raises `UsageError`, and takes help and completion from libraries."""

import argparse
import os
import re
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from rich_argparse import RawDescriptionRichHelpFormatter

from eexit.errors import UsageError
from eexit.output.text import did_you_mean, renamed

_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)")  # numbers and lists of numbers that argparse would take for flags
_HOME = re.compile(r"\A(--[a-z][a-z-]*=)(~/.*)", re.DOTALL)  # a shell only expands ~ where a word begins
COMPLETES = "_ARGCOMPLETE"  # set by a completing shell, as argcomplete defines it: the number of words before the flags
_MOST_TOLD = 200  # characters of unknown arguments


class _HelpFormatter(RawDescriptionRichHelpFormatter):
    text_markup = help_markup = False  # brackets are no markup


class Parser(argparse.ArgumentParser):
    """Argument parser that raises `UsageError`."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        self._groups = dict[str, argparse._ArgumentGroup]()
        self._negative_number_matcher = _NEGATIVE
        about = f"eexit {installed_version()}"
        self.add_argument("--version", action="version", version=about, help="print the version and stop")

    def switch(self, name: str, text: str, group: str = "") -> None:
        """Add a flag without a value, to the group of flags with this title if it is given."""
        self._in(group).add_argument(name, action="store_true", help=text)

    def single(self, name: str, metavar: str | None, text: str | None, group: str = "", **how: Any) -> None:
        """Add a flag with a value."""
        self._in(group).add_argument(name, metavar=metavar, help=text, **how)

    def several(self, name: str, metavar: str, text: str | None, group: str = "", **how: Any) -> None:
        """Add a flag with several values; by default none."""
        self.single(name, metavar, text, group, **{"nargs": argparse.ONE_OR_MORE, "default": (), **how})

    def _in(self, title: str) -> argparse._ActionsContainer:
        """Return the group of flags with this title, creating it if it is missing; without a title, the parser."""
        if title and title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title] if title else self

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Raise `UsageError` for an unknown flag, with the likeliest known one."""
        if COMPLETES in os.environ:  # a shell requests completions, and the process ends
            import argcomplete

            argcomplete.autocomplete(self)
        given = [_HOME.sub(lambda flag: flag[1] + os.path.expanduser(flag[2]), each) for each in arguments]
        known, unknown = self.parse_known_args(given)
        if unknown:
            told = textwrap.shorten(" ".join(unknown), _MOST_TOLD, placeholder=" …")  # in one line
            self.error(f"unrecognized arguments: {told}{self._meant(unknown[0])}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: --help lists the flags")

    def _meant(self, text: str) -> str:
        name = text.partition("=")[0]
        is_flag = name[:1] == "-" and name.strip("-")
        meant = renamed(name) or did_you_mean(name, list(self._option_string_actions), most=1) if is_flag else ""
        return f" ({meant})" if meant else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        known = [*map(str, action.choices or ())]
        if known and value not in known and (meant := did_you_mean(str(value), known)):
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({meant})")
        super()._check_value(action, value)


def installed_version() -> str:
    """Return the installed version, or a phrase for a clone that is not installed."""
    try:
        return version("eexit")
    except PackageNotFoundError:
        return "from a clone that is not installed"
