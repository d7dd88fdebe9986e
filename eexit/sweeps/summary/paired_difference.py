"""Paired differences of settings from others at equal depth, equal cost or the same threshold, as a data frame.

The report's "Side by side" has the same numbers, from the same functions (`eexit.results.paired_runs`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from eexit.errors import UsageError
from eexit.output.text import did_you_mean, truncate_lines
from eexit.plan.configuration import NORMAL, Configuration, EarlyExit
from eexit.quality.estimates import ENDS
from eexit.results.configuration_means import LAYERS_SKIPPED
from eexit.results.paired_runs import MATCHED, RUN, PairedNumbers, columns_of
from eexit.sweeps.summary.certainty import ALL

THRESHOLD: Final = "threshold"
AT: Final = {"layers_skipped": LAYERS_SKIPPED, "macs": RUN, THRESHOLD: None}  # value of `at` → measure of the mix
SAVED: Final = "saved"  # the name of `RUN` in the frame


def paired_difference(
    done: pd.DataFrame,
    planned: Sequence[Configuration],
    same_for_every_seed: Collection[str],
    settings: str,
    others: str,
    at: str,
    value_of: Mapping[str, Any],
) -> pd.DataFrame:
    """Return the paired differences of `settings` from `others`: `by`, `configuration`, `other`, and the estimates.

    Args:
        done: the runs without an error, in the columns of `runs`, with their sampling unit in the column `unit`.
        settings, others: a mode, a mode and a rule (`unfrozen/confidence`) or a configuration's key.
        at: a key of `AT`.
        value_of: prompt id → value by which prompts are divided, such as the kind; the first rows are of all prompts.
    """
    if at not in AT:
        raise UsageError(f"at must be {', '.join(AT)}, got {at!r}")
    pairs = [*_pairs(planned, settings, others, at)]
    if not pairs:
        same = "rule, threshold, exit set and gate" if at == THRESHOLD else "rule, exit set and gate"
        raise UsageError(f"no setting of {settings} has one of {others} with the same {same}")
    keys, rows = [each.key for each in planned], []
    for value in [ALL, *sorted({*value_of.values()})]:
        of_value = done if value == ALL else done[done["prompt_id"].map(value_of) == value]
        if len(of_value):
            numbers = PairedNumbers.from_runs(of_value, MATCHED, keys, same_for_every_seed)
            rows += [{"by": value, **row} for row in _rows(numbers, {*of_value["configuration"]}, pairs, AT[at])]
    if not rows:
        raise UsageError(
            f"no mix of {others} and {NORMAL} equals a setting of {settings} in {at}: give at={THRESHOLD!r}"
        )
    return pd.DataFrame(rows).rename(columns={f"{RUN}{end}": f"{SAVED}{end}" for end in ENDS})


def _pairs(
    planned: Sequence[Configuration], settings: str, others: str, at: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each setting's key with the keys of a series, or of the one setting, that it is compared with."""
    are_modes = not any("/" in name for name in (settings, others))
    are_keys = {settings, others} <= {each.key for each in planned}
    for setting in _named(planned, settings):
        series: dict[tuple[str, ...], list[str]] = {}
        for each in _named(planned, others):
            if at == THRESHOLD:
                is_alike = are_keys or each.rule_key == setting.rule_key
            else:
                is_alike = not are_modes or (each.rule, each.within) == (setting.rule, setting.within)
            if is_alike and each.key != setting.key:
                series.setdefault((each.mode, each.rule, each.within), []).append(each.key)
        yield from ((setting.key, tuple(of)) for of in series.values())


def _named(planned: Sequence[Configuration], name: str) -> list[EarlyExit]:
    """Return the settings of a mode, of a mode and a rule, or of one key. Raise `UsageError`."""
    exits = [each for each in planned if isinstance(each, EarlyExit) and each.columns["control_of"] is None]
    found = [each for each in exits if name in (each.mode, f"{each.mode}/{each.rule}", each.key)]
    if not found:
        known = list(dict.fromkeys(each for of in exits for each in (of.mode, f"{of.mode}/{of.rule}")))
        keys = [each.key for each in exits]
        way_out = did_you_mean(name, [*known, *keys], f"it has {', '.join(truncate_lines(known))}", most=1)
        raise UsageError(f"the sweep has no settings of {name!r}: {way_out}")
    return found


def _rows(
    numbers: PairedNumbers, committed: Collection[str], pairs: Sequence[tuple[str, Sequence[str]]], equal: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the row of each pair of which both have runs; `equal` is the measure in which a mix equals the setting."""
    metrics = numbers.metrics([key for key in numbers.keys if key in committed])
    for key, others in pairs:
        points = [other for other in others if other in committed]
        if key not in committed or not points:
            continue
        if equal is None:
            _, means_PXD = numbers.differences([key], points[0])
            [of] = numbers.estimated(means_PXD)
            yield {"configuration": key, "other": points[0], **columns_of(of.values())}
        else:
            full_depth = [NORMAL] if NORMAL in metrics.keys else []
            for found in metrics.matched(key, [*full_depth, *points], [equal]):
                yield {"configuration": key, "other": found.mix, **columns_of(found.differences)}
