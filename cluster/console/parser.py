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
        self.add_argument(
            "--version", action="version", version=f"eexit {installed_version()}", help="print the version and stop"
        )

    def group(self, title: str) -> "argparse._ArgumentGroup":
        """Return the group of flags with this title, creating it if it is missing."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def several(self, name: str, metavar: str, text: str, **how: Any) -> None:
        """Add a flag with several values; by default none."""
        self.add_argument(name, nargs=argparse.ONE_OR_MORE, metavar=metavar, help=text, **{"default": (), **how})

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Raise `UsageError` for an unknown flag, with the likeliest known one."""
        if COMPLETES in os.environ:  # a shell requests completions, and the process ends
            import argcomplete

            argcomplete.autocomplete(self)
        known, unknown = self.parse_known_args([_HOME.sub(_with_home, argument) for argument in arguments])
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


def _with_home(flag: re.Match[str]) -> str:
    return flag[1] + os.path.expanduser(flag[2])


def installed_version() -> str:
    """Return the installed version, or a phrase for a clone that is not installed."""
    try:
        return version("eexit")
    except PackageNotFoundError:
        return "from a clone that is not installed"
