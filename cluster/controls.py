"""Controls of a finished sweep: of each of its configurations one that exits as deep, and knows nothing.

If a configuration's texts are no better than its control's, its rule knows nothing that helps.
"""

from collections import Counter

from cluster.landing import read_columns
from cluster.store import open_store
from eexit.config import ControlOf, UsageError
from eexit.places import shown
from eexit.results import FORMAT, MANIFEST, decode
from eexit.schema import OK


def controls_of(results: str) -> tuple[ControlOf, ...]:
    """For each configuration that exits, how many decided tokens of all its runs were read after each layer.

    Raises `UsageError` where `results` holds no finished sweep, or one whose configurations have no names as yet.
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
        ControlOf(mode=entry["mode"], of=entry["key"], counts=dict(counts[entry["key"]]))
        for entry in exiting
        if counts.get(entry["key"], Counter()).total()
    )
