"""Names, units and axes of rules' parameters, as the rules in `eexit.method.rules` declare them.

Results of a later version may have rules that this version doesn't know; their parameters are called "parameter".
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd

from eexit.method.rules import KL_FACTOR, ORACLES, RULES, shown

ORACLE_MARK: Final = " (oracle)"


def parameter_name(rule: str) -> str:
    """The name of the rule's parameter."""
    return RULES[rule].parameter if rule in RULES else "parameter"


def parameter_title(rule: str) -> str:
    """The title of an axis for the rule's parameter: its name and unit."""
    name, unit = parameter_name(rule), RULES[rule].unit if rule in RULES else ""
    if is_doubling(rule):
        return f"{name}, {unit} (log2; higher: exits later)"
    return f"{name}, {unit}" if unit and unit != name else name


def exact_labels(parameters: Sequence[float]) -> str:
    """The Vega expression of an axis' labels at these values: parameters as in keys, which Vega's formats round."""
    texts = json.dumps([shown(parameter) for parameter in parameters])
    return f"{texts}[indexof({json.dumps(list(parameters))}, datum.value)]"


def is_doubling(rule: str) -> bool:
    """Whether the parameter belongs on a log2 axis, as KL factors do."""
    return parameter_name(rule) == KL_FACTOR


def oracles_beside_others(rules: Iterable[str]) -> frozenset[str]:
    """The oracles among these rules if there are other rules as well, so that labels have to tell them apart."""
    names = frozenset(rules)
    oracles = names & ORACLES.keys()
    return oracles if oracles < names else frozenset()


def representative(rule: str, parameters: Sequence[float]) -> float:
    """The parameter that represents a rule where only one is shown: the KL factor nearest to 1, otherwise the median
    (the lower one of an even number).
    """
    if is_doubling(rule):
        return min(parameters, key=lambda parameter: abs(parameter - 1))
    return sorted(parameters)[(len(parameters) - 1) // 2]


def representatives(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """The row with the representative parameter for each mode and rule, without `normal` and controls.

    `frame` has one row per configuration.
    """
    found = []
    deciding = frame[frame["rule"].notna() & frame["control_of"].isna()]
    for _, rows in deciding.groupby("series", sort=False):
        known = rows.loc[rows["parameter"].notna(), "parameter"].tolist()
        standing = rows["parameter"] == representative(rows["rule"].iloc[0], known) if known else rows["rule"].notna()
        found.append(rows[standing].iloc[0].to_dict())
    return found
