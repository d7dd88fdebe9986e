"""Number of a selection among the uses of its calibration prompts, and its error budget
(`eexit.quality.learn_then_test`).

Uses count by calibration prompts and model: all earlier selections with any of these prompts count, whatever the
folder, the dtype or the settings. They are searched in this folder, in folders beside it, and in the steps of
assessments beside it, on a local disk. The same selection from the same runs is the same use.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eexit.errors import UsageError
from eexit.plan.hashes import content_hash
from eexit.plan.splits import unit_digest
from eexit.quality.learn_then_test import alpha_share
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.layout import ASSESSMENT
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import identity_of
from eexit.results.study_tables import CHOICES
from eexit.studies.selection.selection_args import AlphaShare

# What makes it another one.
QUESTION: Final = ("risk", "max_risk", "confidence", "cost_by", "test", "order", "asked", "runs", "units")
Row = Mapping[str, Any]


def columns_of(sweep: FinishedSweep, units: Sequence[str]) -> dict[str, Any]:
    """Return the columns of `CHOICES` by which uses of prompts are found: model, runs, and digests of `units`."""
    config = sweep.manifest.config
    return {
        "model": config["model"],
        "runs": hash_of_runs(config, sweep.manifest.model),
        "units": sorted(unit_digest(unit) for unit in units),
    }


def hash_of_runs(config: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return a hash of a sweep's runs by its manifest, with the digests of artefacts.

    An extended sweep has another one.
    """
    placeless = {name: value for name, value in config.items() if name not in config.get("digests", ())}
    return content_hash(placeless, {name: value for name, value in identity_of(model).items() if name != "parts"})


def ask_of(question: Row, planned: int | None, store: Store) -> AlphaShare:
    """Return which use of its calibration prompts a selection is, among the uses in `store` and folders beside it.

    `question` has the selection's columns. Without `planned`, the first use determines how many uses are planned, or
    one is. Raise `UsageError` if `planned` is another number.
    """
    rows = (row for each in (store, *_other_folders(store)) for row in CHOICES.rows(each))
    of_model = (row for row in rows if row["model"] == question["model"])
    shared = [row for row in of_model if not set(row["units"]).isdisjoint(question["units"])]
    latest_first = sorted(shared, key=lambda row: row["started"], reverse=True)
    before = list({_what(row): row for row in latest_first}.values())[::-1]  # the first row of each selection
    declared = before[0]["planned"] if before else planned or 1
    if planned not in (None, declared):
        raise UsageError(
            f"--planned-uses {planned} comes too late: {declared} was planned at their first use. Leave "
            f"--planned-uses out, or sweep other prompts"
        )
    same = [row["question"] for row in before if _what(row) == _what(question)]
    number = same[0] if same else max([len(before), *(row["question"] for row in before)]) + 1
    return AlphaShare(number, declared, alpha_share(question["confidence"], number, declared))


def _other_folders(store: Store) -> Iterator[Store]:
    """Yield the folders with selections beside results on a local disk, or one level deeper.

    For a step of an assessment, these are beside the assessment.
    """
    if store.is_local:
        folder = Path(store.root)
        home = folder.parent.parent if (folder.parent / ASSESSMENT).is_file() else folder.parent
        for pattern in (f"*/{CHOICES.name}", f"*/*/{CHOICES.name}"):
            yield from (open_store(found.parent) for found in sorted(home.glob(pattern)) if found.parent != folder)


def _what(row: Row) -> tuple[Any, ...]:
    """Return the values by which two rows are of the same selection."""
    return tuple(tuple(row[name]) if name in ("asked", "units") else row[name] for name in QUESTION)
