"""Command-line flags made from the fields of pydantic models, which alone validate the values."""

import argparse
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from cluster.console.completion import complete
from eexit.errors import UsageError
from eexit.output.text import did_you_mean, flag
from eexit.plan.config import LEAST_SEED, MOST_COUNT, MOST_SEED, SweepConfig

_SCRIPT = re.compile(r"python jobs/(?:\w+/)?(\w+)\.py")  # which is `eexit NAME`, too
_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)")  # numbers, and lists of them, that argparse would take for flags
_MOST_TOLD = 200  # characters of arguments that no flag takes
_HELD = "\u00a0"  # a space that no line ends at
_WHOLE = re.compile(r"[+-]?\d{1,1000}", re.ASCII)  # Python refuses to read a number of thousands of digits


class _Layout(argparse.HelpFormatter):
    """Descriptions as wide as the terminal, with examples as lines; `--seeds SEED …` for several values of a flag."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(paragraph, width) for paragraph in text.strip().split("\n\n"))

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        is_many = action.nargs == argparse.ONE_OR_MORE
        return f"{action.metavar or default_metavar} …" if is_many else super()._format_args(action, default_metavar)


def _filled(paragraph: str, width: int) -> str:
    """A paragraph of a description: lines of examples if it is indented, else sentences."""
    if not paragraph.startswith(" "):
        return textwrap.fill(paragraph, width, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else _example(line, width) for line in paragraph.splitlines())


def _example(line: str, width: int) -> str:
    """A command that goes on in further lines, with what is said of it beneath."""
    command, *remark = re.split(" {3,}", line.strip(), maxsplit=1)
    wrapped = partial(textwrap.wrap, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)
    by_flag = re.sub(" (?!--)", _HELD, command)  # flags stay with their values
    lines = " \\\n".join(wrapped(by_flag, width - 2, initial_indent=" " * 4)).replace(_HELD, " ")
    return "\n".join([lines, *wrapped("".join(remark), width, initial_indent=" " * 8)])


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        print(parser.format_all(), end="")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` for arguments it can't parse, and shows its description as it is written.

    If it has `first` flags, by their names, `--help` describes only those, and `--help-all` all.
    """

    def __init__(self, description: str | None, first: Collection[str] = ()) -> None:
        usage = "%(prog)s [flags]" if first else None
        super().__init__(usage=usage, description=description, allow_abbrev=False, formatter_class=_Layout)
        if self.prog.startswith("eexit ") and description:
            self.description = _SCRIPT.sub(lambda script: f"eexit {script[1].replace('_', '-')}", description)
        self._first, self._groups = first, dict[str, argparse._ArgumentGroup]()
        self._negative_number_matcher = _NEGATIVE
        if first:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="describe all flags and stop")
        self.add_argument(
            "--version", action="version", version=f"eexit {installed_version()}", help="print the version and stop"
        )

    def group(self, title: str) -> "argparse._ArgumentGroup":
        """The group of flags with this title in the help."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def several(self, name: str, metavar: str, text: str, **how: Any) -> None:
        """Add a flag that takes several values; by default none."""
        self.add_argument(name, nargs=argparse.ONE_OR_MORE, metavar=metavar, help=text, **{"default": (), **how})

    def format_help(self) -> str:
        """What `--help` prints."""
        later = [action for action in self._actions if self._first and action.dest not in (*self._first, "help_all")]
        helps = [action.help for action in later]
        try:
            for action in later:
                action.help = argparse.SUPPRESS
            return super().format_help()
        finally:
            for action, text in zip(later, helps, strict=True):
                action.help = text

    def format_all(self) -> str:
        """What `--help-all` prints."""
        return super().format_help()

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Raises `UsageError` for an unknown flag, with the one that was probably meant."""
        complete(self)
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            told = textwrap.shorten(" ".join(unknown), _MOST_TOLD, placeholder=" …")  # in one line, whatever they are
            self.error(f"unrecognized arguments: {told}{self._meant(unknown[0])}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: {'--help-all' if self._first else '--help'} lists the flags")

    def _meant(self, text: str) -> str:
        name = text.partition("=")[0]
        is_flag = name[:1] == "-" and name.strip("-")
        meant = did_you_mean(name, list(self._option_string_actions), most=1) if is_flag else ""
        return f" ({meant})" if meant else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        known = [*map(str, action.choices or ())]
        if known and value not in known and (meant := did_you_mean(str(value), known)):
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({meant})")
        super()._check_value(action, value)


def study_parser(description: str | None, results: str = "folder or URI of a finished sweep") -> Parser:
    """A parser for what is asked of a sweep, whose folder comes first."""
    parser = Parser(description)
    parser.add_argument("results", help=results)
    return parser


def study_flags(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """What `arguments` say, of the flags that `parser` has, and of those that come last where a model is loaded.

    Raises `UsageError`.
    """
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: CUDA if there is any, else CPU"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress, only results and problems")
    trust_flag(parser)
    return parser.read(arguments)


def trust_flag(parser: Parser) -> None:
    """Add the flag that every command asks for anew: what is stored only says that it was needed."""
    described = SweepConfig.model_fields["trust_remote_code"].description
    parser.add_argument("--trust-remote-code", action="store_true", help=described)


def make_parser(
    fields: Mapping[str, FieldInfo],
    description: str,
    groups: Mapping[str, Sequence[str]],
    first: Collection[str],
    skip: Sequence[str] = (),
    demo: Mapping[str, Any] | None = None,
) -> Parser:
    """A flag for each of `fields` but `skip`, with the field's description as its help, in the group that names it.

    `first` are the flags that `--help` describes. The help says where `demo`, the values that are used when nothing is
    given, differs from a field's default.
    """
    parser = Parser(description, first)
    title_of = {name: title for title, names in groups.items() for name in names}
    for name in sorted(fields, key=list(title_of).index):
        if name in skip:
            continue
        field, group = fields[name], parser.group(title_of[name])
        help_text = _help(field, (demo or {}).get(name, field.default))
        if field.annotation is bool:
            group.add_argument(flag(name), action="store_const", const="true", default=None, help=help_text)
            continue
        many = "+" if _is_tuple(field.annotation) else None
        metavar = name.removesuffix("s").rpartition("_")[2].upper() if many else name.upper()
        metavar = "N" if _is_number(field.annotation) else metavar
        action = "extend" if many else "store"  # so that of `--rules agree --rules fixed=10` none is lost
        group.add_argument(flag(name), action=action, nargs=many, metavar=metavar, default=None, help=help_text)
    return parser


def parse_flags(parser: Parser, arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, as text; flags of tuples as lists, whether written `1 2` or `1,2`.

    Raises `UsageError`.
    """
    given = {name: value for name, value in vars(parser.read(arguments)).items() if value is not None}
    return {name: _split(name, value) if isinstance(value, list) else value for name, value in given.items()}


def number(text: str) -> float:
    """A type for argparse: a number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text}") from error


def _within(text: str, least: int, most: int, what: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be {what}, got {text}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"must be at most {most:,}, got {text}")
    return int(text)


# Types for argparse: a count, a layer, a share, and what generators of random numbers take.
whole = partial(_within, least=1, most=MOST_COUNT, what="a whole number above 0")
layer = partial(_within, least=0, most=MOST_COUNT, what="a layer, 0 or more")
per_cent = partial(_within, least=0, most=100, what="whole per cent from 0 to 100")
seed = partial(_within, least=LEAST_SEED, most=MOST_SEED, what="a whole number of 64 bits")


def _split(name: str, values: list[str]) -> list[str]:
    """The parts of lists; a value with a colon, as in 10,20:2,4, is one, and so are an exit set and a mark."""
    is_whole = name in ("exit_sets", "thinking")
    parts = [part for value in values for part in ([value] if is_whole or ":" in value else value.split(","))]
    return [part.strip() for part in parts if part.strip()]


def _help(field: FieldInfo, in_demo: Any) -> str:
    text, default = field.description or "", None if field.is_required() else field.default
    if default is not None and default is not False and default != {}:
        text += f" (default: {_shown(default)}"
        differs = list(in_demo) != list(default) if isinstance(default, tuple) else in_demo != default
        text += f"; the demo's: {_shown(in_demo)})" if differs else ")"
    return text.replace("%", "%%")


def _shown(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or "none"


def installed_version() -> str:
    """The version that is installed, or words for none."""
    try:
        return version("eexit")
    except PackageNotFoundError:
        return "from a clone that is not installed"


def _is_number(annotation: Any) -> bool:
    parts = () if get_origin(annotation) is dict else get_args(annotation)
    return annotation in (int, float) or any(map(_is_number, parts))


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(argument) for argument in get_args(annotation))
