"""Command-line flags made from the fields of a pydantic model; the model alone judges what they say."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eexit.config import UsageError

_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)")


class Parser(argparse.ArgumentParser):
    """One line for what it can't parse, like every other input error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: --help lists the flags")


def make_parser(model: type[BaseModel], description: str, skip: Sequence[str] = ()) -> Parser:
    """A flag for each field of `model` but `skip`, with the field's description as its help."""
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        if field.annotation is bool:
            parser.add_argument(flag(name), action="store_const", const="true", default=None, help=_help(field))
            continue
        many = "+" if _is_tuple(field.annotation) else None
        metavar = name.removesuffix("s").upper() if many else name.upper()
        parser.add_argument(flag(name), nargs=many, metavar=metavar, default=None, help=_help(field))
    return parser


def parse_flags(parser: Parser, arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, as text; those of tuples as lists, whether `1 2`, `1,2` or both.

    Raises `UsageError`.
    """
    # To argparse `-1` and `-1,2` are flags; behind a space they are values, and reach validation.
    shielded = [f" {text}" if _NEGATIVE.match(text) else text for text in arguments]
    given = {name: value for name, value in vars(parser.parse_args(shielded)).items() if value is not None}
    return {name: _split(value) if isinstance(value, list) else _unshield(value) for name, value in given.items()}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _unshield(text: str) -> str:
    return text[1:] if _NEGATIVE.match(text[1:]) else text


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    if field.default not in (None, False) and not field.is_required():
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown if shown != '' else 'none'})"
    return text.replace("%", "%%")


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(argument) for argument in get_args(annotation))
