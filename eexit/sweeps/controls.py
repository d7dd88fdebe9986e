"""Controls of a finished sweep: for each configuration one that exits at random, as often at each layer.

If a configuration's texts are no better than those of its control, what its rule knows does not help.
"""

from collections.abc import Sequence

from eexit.method.descriptions import STATE, refuse_changed
from eexit.plan.config import ControlOf
from eexit.results.finished_sweep import read_finished


def controls_of(results: str, modes: Sequence[str] = ()) -> tuple[ControlOf, ...]:
    """A control for each configuration that exits, with the number of its decided tokens by exit layer; in its own
    mode, or in each of `modes`.

    One whose tokens all exit at the same layer has none, since its control would do the same.

    Raises `UsageError` if `results` is not a finished sweep, and unless custom modes that it has are given again.
    """
    sweep = read_finished(results, ["configuration", "exit_layer_counts"], "--controls-of")
    counts = sweep.exit_counts
    exiting = [entry for entry in sweep.manifest.configurations if entry["rule"] and not entry["control_of"]]
    followed = {*modes, *(entry["mode"] for entry in exiting)}
    custom = [each for each in sweep.manifest.own if each["kind"] == STATE and each["name"] in followed]
    refuse_changed(custom, f"--controls-of {sweep.name}")
    return tuple(
        ControlOf(of=entry["key"], counts=dict(counts[entry["key"]]), in_mode=mode)
        for entry in exiting
        for mode in modes or (None,)
        if sum(count > 0 for count in counts.get(entry["key"], {}).values()) > 1
    )
