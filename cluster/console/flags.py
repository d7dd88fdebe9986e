"""Command-line flags made from the fields of pydantic models, which alone validate the values."""

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from cluster.console.parser import Parser
from eexit.output.text import flag
from eexit.plan.config import LEAST_SEED, MOST_COUNT, MOST_SEED, SweepConfig

_WHOLE = re.compile(r"[+-]?\d{1,1000}", re.ASCII)  # Python refuses to read a number of thousands of digits


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
    skip: Sequence[str] = (),
    demo: Mapping[str, Any] | None = None,
) -> Parser:
    """A flag for each of `fields` but `skip`, with the field's description as its help, in the group that names it.

    The help says where `demo`, the values that are used when nothing is
    given, differs from a field's default.
    """
    parser = Parser(description)
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


def _is_number(annotation: Any) -> bool:
    parts = () if get_origin(annotation) is dict else get_args(annotation)
    return annotation in (int, float) or any(map(_is_number, parts))


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(argument) for argument in get_args(annotation))
