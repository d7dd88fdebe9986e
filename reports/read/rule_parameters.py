"""Names, units and axes of rules' parameters, as declared in `eexit.method.rules`.

Results of a later version may have rules that this version lacks; their parameters are called "parameter".
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd

from eexit.method.rules import KL_FACTOR, ORACLES, RULES, format_parameter

ORACLE_MARK: Final = " (oracle)"


def parameter_name(rule: str) -> str:
    """Return the name of the rule's parameter."""
    return RULES[rule].parameter if rule in RULES else "parameter"


def parameter_title(rule: str) -> str:
    """Return the axis title for the rule's parameter: its name and unit."""
    name, unit = parameter_name(rule), RULES[rule].unit if rule in RULES else ""
    if is_doubling(rule):
        return f"{name}, {unit} (log2; higher: exits later)"
    return f"{name}, {unit}" if unit and unit != name else name


def exact_labels(parameters: Sequence[float]) -> str:
    """Return the Vega expression that labels an axis at these values.

    Labels are written as in configuration keys, since Vega's own formats round numbers.
    """
    texts = json.dumps([format_parameter(parameter) for parameter in parameters])
    return f"{texts}[indexof({json.dumps(list(parameters))}, datum.value)]"


def is_doubling(rule: str) -> bool:
    """Return True if the parameter belongs on a log2 axis, as KL factors do."""
    return parameter_name(rule) == KL_FACTOR


def oracles_beside_others(rules: Iterable[str]) -> frozenset[str]:
    """Return the oracles among these rules, if labels must distinguish them from other rules."""
    names = frozenset(rules)
    oracles = names & ORACLES.keys()
    return oracles if oracles < names else frozenset()


def representative(rule: str, parameters: Sequence[float]) -> float:
    """Return the parameter that represents a rule where only one is shown: the KL factor nearest to 1, otherwise the
    median (the lower one of an even number).
    """
    if is_doubling(rule):
        return min(parameters, key=lambda parameter: abs(parameter - 1))
    return sorted(parameters)[(len(parameters) - 1) // 2]


def representatives(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the row with the representative parameter for each mode and rule, without `normal` and controls.

    `frame` has one row per configuration.
    """
    found = []
    deciding = frame[frame["rule"].notna() & frame["control_of"].isna()]
    for _, rows in deciding.groupby("series", sort=False):
        known = rows.loc[rows["parameter"].notna(), "parameter"].tolist()
        standing = rows["parameter"] == representative(rows["rule"].iloc[0], known) if known else rows["rule"].notna()
        found.append(rows[standing].iloc[0].to_dict())
    return found
