"""Controls of a finished sweep: for each configuration one that exits at random, as often at each layer.

If a configuration's texts are no better than those of its control, what its rule knows does not help.
"""

from collections import Counter

from cluster.landing import read_columns
from cluster.store import open_store
from eexit.config import ControlOf, UsageError
from eexit.places import shown
from eexit.results import FORMAT, MANIFEST, decode
from eexit.schema import OK


def controls_of(results: str) -> tuple[ControlOf, ...]:
    """A control for each configuration that exits, with the number of its decided tokens by exit layer.

    Raises `UsageError` if `results` is not a finished sweep, or has a format that does not name configurations.
    """
    store = open_store(results)
    content = store.read(MANIFEST)
    if content is None:
        raise UsageError(f"--controls-of {shown(results)} holds no {MANIFEST}: give the folder of a finished sweep")
    try:
        manifest = decode(content)
    except ValueError as error:
        raise UsageError(f"--controls-of {shown(results)} is no sweep's folder ({error})") from error
    if manifest.format != FORMAT:
        raise UsageError(
            f"--controls-of {shown(results)} holds results of format {manifest.format}, and format {FORMAT} is needed: "
            "run that sweep again"
        )
    rows = read_columns(store, ["configuration", "status", "exit_layer_counts"])
    if rows.num_rows < (manifest.n_runs or 0):
        raise UsageError(
            f"--controls-of {shown(results)} has {rows.num_rows:,} of {manifest.n_runs:,} runs: finish that sweep first"
        )
    counts: dict[str, Counter[int]] = {}
    for key, status, its in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        if status == OK:
            counts.setdefault(key, Counter()).update(dict(its))
    exiting = [entry for entry in manifest.configurations if entry["rule"] and not entry["control_of"]]
    return tuple(
        ControlOf(of=entry["key"], counts=dict(counts[entry["key"]]))
        for entry in exiting
        if counts.get(entry["key"], Counter()).total()
    )
