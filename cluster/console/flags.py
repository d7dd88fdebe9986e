"""Flags that several commands share, and their argparse types."""

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial

from cluster.console.parser import Parser
from eexit.method.custom import use_files
from eexit.plan.field_types import LEAST_SEED, MOST_COUNT, MOST_SEED
from eexit.plan.sweep_config import SweepConfig

_WHOLE = re.compile(r"[+-]?\d{1,1000}", re.ASCII)  # Python refuses numbers of thousands of digits


def study_parser(description: str | None, results: str = "folder or URI of a finished sweep") -> Parser:
    """Return a parser for a study, whose first argument is the sweep's folder, with `results` as its help."""
    parser = Parser(description)
    parser.add_argument("results", help=results)
    return parser


def study_flags(parser: Parser, arguments: Sequence[str], with_own_exits: bool = True) -> argparse.Namespace:
    """Add the flags of commands that load a model, and parse `arguments`. Raise `UsageError` for a wrong flag or file.

    Custom rules and modes are loaded; without `with_own_exits`, there is no flag for their files.
    """
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: CUDA if available, else CPU"
    )
    quiet_flag(parser)
    trust_flag(parser)
    if not with_own_exits:
        return parser.read(arguments)
    use_flag(parser)
    flags = parser.read(arguments)
    use_files(flags.use)
    return flags


def quiet_flag(parser: Parser, group: str = "") -> None:
    parser.switch("--quiet", "hide progress; print results and problems", group)


def trust_flag(parser: Parser) -> None:
    """Add `--trust-remote-code`, which every command requires anew: a sweep only records that it was needed."""
    parser.switch("--trust-remote-code", SweepConfig.model_fields["trust_remote_code"].description or "")


def use_flag(parser: Parser, group: str = "") -> None:
    """Add the flag for files of custom rules and modes."""
    what = "Python files with custom rules and modes, which are executed"
    parser.several("--use", "FILE", what, group, action="extend", default=[])


def number(text: str, allows: Callable[[float], bool] = lambda value: True, what: str = "") -> float:
    """Parse a number, as an argparse type; `what` describes the numbers that `allows` accepts."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text}") from error
    if not allows(value):
        raise argparse.ArgumentTypeError(f"must be {what}, got {text}")
    return value


def _within(text: str, least: int, most: int, what: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be {what}, got {text}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"must be at most {most:,}, got {text}")
    return int(text)


# Types for argparse: a count, a layer, a share, and a seed of random number generators.
whole = partial(_within, least=1, most=MOST_COUNT, what="a whole number above 0")
layer = partial(_within, least=0, most=MOST_COUNT, what="a layer, 0 or more")
per_cent = partial(_within, least=0, most=100, what="whole per cent from 0 to 100")
seed = partial(_within, least=LEAST_SEED, most=MOST_SEED, what="a whole number of 64 bits")
