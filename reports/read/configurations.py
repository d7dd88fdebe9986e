"""The configuration of each run, as a sweep records it, or derived from mode and KL factor for the original format.

All other modules then work with configurations alone.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import pandas as pd

from eexit.plan.configuration import COLUMNS, NORMAL, Configuration, Draft, EarlyExit, NoExit, configuration_of

ORIGINAL_RULE: Final = "kl"  # the original module's only rule
NUMBERS: Final = ("parameter", "kl_factor", "draft_layer")


def with_identity(generations: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with all of `COLUMNS`; missing values are derived from the mode and the KL factor."""
    if "configuration" in generations and generations["configuration"].notna().all():
        return generations
    factors = generations["kl_factor"].astype(object).where(generations["kl_factor"].notna(), None)
    named = [_original(*pair).columns for pair in zip(generations["mode"], factors, strict=True)]
    columns = pd.DataFrame(named, columns=list(COLUMNS), index=generations.index)
    kinds = {name: float if name in NUMBERS else "str" for name in COLUMNS}
    return generations.assign(**{name: columns[name] for name in COLUMNS}).astype(kinds)


def configurations(about: Mapping[str, Any], generations: pd.DataFrame) -> tuple[Configuration, ...]:
    """Return the configurations in the order of `sweep.json`, then those found only in runs, `normal` first."""
    planned = tuple(map(_stored, about.get("configurations", ())))
    others = generations[~generations["configuration"].isin([each.key for each in planned])]
    rows = others.drop_duplicates("configuration")[list(COLUMNS)]
    found = [_stored(dict(zip(COLUMNS, row, strict=True))) for row in rows.itertuples(index=False)]
    series = list(dict.fromkeys((c.mode, c.columns["rule"]) for c in found))
    rest = sorted(found, key=lambda c: (c.mode != NORMAL, series.index((c.mode, c.columns["rule"])), _size(c)))
    return tuple(dict.fromkeys([*planned, *rest]))


def _size(configuration: Configuration) -> tuple[float, float]:
    """Return the sort key of a configuration within its mode and rule: the parameter, or a draft's layer and length."""
    match configuration:
        case Draft(layer, n_tokens):
            return layer, n_tokens
        case EarlyExit(parameter=float(parameter)):
            return parameter, 0
    return 0, 0


def _stored(columns: Mapping[str, Any]) -> Configuration:
    return configuration_of({name: value for name, value in columns.items() if not pd.isna(value)})


@cache
def _original(mode: str, kl_factor: float | None) -> Configuration:
    if mode == NORMAL or kl_factor is None:
        return NoExit(mode)
    return EarlyExit(mode, ORIGINAL_RULE, float(kl_factor))
