"""Messages for invalid configurations, in one line: the value, its source, and the way out."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eexit.output.text import did_you_mean, flag, renamed
from eexit.plan.grid_types import KL_FACTORS


def explain(
    error: ValidationError, flags: set[str], path: Path, known: Collection[str], given: Collection[str] = ()
) -> str:
    """Return one line on pydantic's first error.

    `flags` came from the command line, and `path` is the TOML file. `known` are all valid names, and `given` the used
    ones.
    """
    problems: list[dict[str, Any]] = [{**problem, "loc": _flat(problem["loc"], given)} for problem in error.errors()]
    # One problem can be reported twice: a tuple without its unusable entry may also be too short.
    others = {problem["loc"][:1] for problem in problems} - {problems[0]["loc"][:1]}
    text = _explain_one(problems[0], flags, path, known)
    return text + (f"; and {len(others)} more to mend" if others else "")


def _flat(location: tuple[int | str, ...], given: Collection[str]) -> tuple[int | str, ...]:
    """Return the location of a value in the input of `job_of`."""
    location = location[1:] if location[:1] == ("config",) else location
    if KL_FACTORS in given and (location[:2] == ("rules", "kl") or (location == ("rules",) and "rules" not in given)):
        return (KL_FACTORS, *location[2:])
    return location


def _explain_one(problem: Mapping[str, Any], flags: set[str], path: Path, known: Collection[str]) -> str:
    location: tuple[Any, ...] = problem["loc"]
    if not location:
        return str(problem["ctx"]["error"])
    name, value, context = location[0], problem["input"], problem.get("ctx", {})
    where = _where(location, flags, path)
    if name == "rules" and len(location) > 1:
        name = f"the parameter of rule {location[1]}"
    match problem["type"]:
        case "missing" if location == ("prompts",):
            return f"prompts are missing: give --prompts FILE, or [[prompts]] in {path}"
        case "missing":
            return f"{location[-1]} is missing ({where})"
        case "extra_forbidden" | "unexpected_keyword_argument":
            key = str(location[-1])
            return f"unknown key {key!r} in {path}: {renamed(key) or did_you_mean(key, known, 'remove it', most=1)}"
        case "enum" | "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            way_out = did_you_mean(str(value), choices.split(", "), f"choose from {choices}")
            return f"unknown {name.removesuffix('s')} {value!r}: {way_out} ({where})"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            sign, bound = next((_SIGNS[key], context[key]) for key in _SIGNS if key in context)
            limit = bound if isinstance(bound, int) else f"{bound:g}"
            return f"{name} must be {sign} {limit}, got {value} ({where})"
        case "too_short":
            return f"{name} needs at least one entry ({where})"
        case "value_error":
            return f"{context['error']} ({where})"
    kind = _KINDS.get(problem["type"])
    return f"{name} must be {kind}, got {value!r} ({where})" if kind else f"{name}: {problem['msg']} ({where})"


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


_KINDS = {
    "bool_type": "true or false",
    "dict_type": 'a list as in ["kl=0.5,1", "agree"], or a table',
    "dataclass_type": 'a table with a prompt, as in [[prompts]] prompt = "Why?"',
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a number of fewer digits",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "string_too_short": "given",
    "string_unicode": "valid Unicode",
    "tuple_type": "a list",
}


def _where(location: tuple[Any, ...], flags: set[str], path: Path) -> str:
    name = str(location[0])
    source = flag(name) if name in flags else f"{name} in {path}"
    return f"entry {location[1] + 1} of {source}" if len(location) > 1 and isinstance(location[1], int) else source
