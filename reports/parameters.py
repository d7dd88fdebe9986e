"""Names, units and axes of rules' parameters, as the rules in `eexit.rules` declare them.

The parameter of a rule that this version does not know, from results of a later version, has no name.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from eexit.configuration import Configuration
from eexit.rules import KL_FACTOR, RULES, shown


def parameter_name(rule: str) -> str:
    """What the rule's parameter is called."""
    return RULES[rule].parameter if rule in RULES else "parameter"


def parameter_title(rule: str) -> str:
    """Its name and unit, for an axis."""
    name, unit = parameter_name(rule), RULES[rule].unit if rule in RULES else ""
    if is_doubling(rule):
        return f"{name}, {unit} (log2; higher: exits later)"
    return f"{name}, {unit}" if unit and unit != name else name


def is_doubling(rule: str) -> bool:
    """Whether the parameter's values are compared by their ratio, on a log2 axis: so it is with KL factors."""
    return parameter_name(rule) == KL_FACTOR


def representative(rule: str, parameters: Sequence[float]) -> float:
    """The parameter that stands for a rule where there is room for one: the KL factor nearest to 1, else the middle
    one.
    """
    if is_doubling(rule):
        return min(parameters, key=lambda parameter: abs(parameter - 1))
    return sorted(parameters)[(len(parameters) - 1) // 2]


def representatives(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Of a frame with a row per configuration, a row for each mode and rule; none for `normal` and for controls."""
    found = []
    deciding = frame[frame["rule"].notna() & frame["control_of"].isna()]
    for _, rows in deciding.groupby("series", sort=False):
        known = rows.loc[rows["parameter"].notna(), "parameter"].tolist()
        standing = rows["parameter"] == representative(rows["rule"].iloc[0], known) if known else rows["rule"].notna()
        found.append(rows[standing].iloc[0].to_dict())
    return found


def setting(configuration: Configuration) -> str | None:
    """Rule and parameter without the mode: `kl/0.5`; None for `normal`."""
    rule, parameter = configuration.rule, configuration.parameter
    return rule if rule is None or parameter is None else f"{rule}/{shown(parameter)}"


def labels_are(frame: pd.DataFrame) -> str:
    """What the labels of points stand for: parameters, by their name where they have the same one."""
    rules = frame.loc[frame["parameter"].notna(), "rule"].unique()
    names = list(dict.fromkeys(map(parameter_name, rules)))
    if not names:
        return ""
    return f"labels are {names[0]}s" if len(names) == 1 else "labels are the rules' parameters"
