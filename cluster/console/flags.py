"""Flags that several commands have, and the types of their values."""

import argparse
import re
from collections.abc import Sequence
from functools import partial

from cluster.console.parser import Parser
from eexit.method.own import use_files
from eexit.plan.config import LEAST_SEED, MOST_COUNT, MOST_SEED, SweepConfig

_WHOLE = re.compile(r"[+-]?\d{1,1000}", re.ASCII)  # Python refuses to read a number of thousands of digits


def study_parser(description: str | None, results: str = "folder or URI of a finished sweep") -> Parser:
    """A parser for what is asked of a sweep, whose folder comes first."""
    parser = Parser(description)
    parser.add_argument("results", help=results)
    return parser


def study_flags(parser: Parser, arguments: Sequence[str], with_own_exits: bool = True) -> argparse.Namespace:
    """What `arguments` say, of the flags that `parser` has, and of those that come last where a model is loaded.

    Own rules and states are known then; without them, there is no flag for their files. Raises `UsageError`.
    """
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: CUDA if there is any, else CPU"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress, only results and problems")
    trust_flag(parser)
    if not with_own_exits:
        return parser.read(arguments)
    use_flag(parser)
    flags = parser.read(arguments)
    use_files(flags.use)
    return flags


def trust_flag(parser: Parser) -> None:
    """Add the flag that every command asks for anew: what is stored only says that it was needed."""
    described = SweepConfig.model_fields["trust_remote_code"].description
    parser.add_argument("--trust-remote-code", action="store_true", help=described)


def use_flag(parser: Parser, group: str = "") -> None:
    """Add the flag that files of own rules and states are given by."""
    (parser.group(group) if group else parser).add_argument(
        "--use", action="extend", nargs="+", metavar="FILE", default=[],
        help="files of Python with rules and states of your own, which are run, and known by their names then",
    )  # fmt: skip


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
