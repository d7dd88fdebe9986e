"""Controls of a finished sweep: for each configuration, one that exits at random as often at each layer.

A rule whose texts are no better than its control's does not benefit from its exit score.
"""

from collections.abc import Sequence

from eexit.method.custom_manifest import MODE, refuse_changed
from eexit.plan.grid_types import ControlSpec
from eexit.results.finished_sweep import read_finished


def controls_of(results: str, modes: Sequence[str] = ()) -> tuple[ControlSpec, ...]:
    """Return a control for each configuration that exits, with its number of decided tokens by exit layer.

    The control has the configuration's mode, or there is one in each of `modes`. A configuration whose tokens all exit
    at the same layer has none, since the control would be identical. One with prompt exits has none, since exits in
    prompts are recorded by no layer. Raise `UsageError` if `results` is not a finished
    sweep, and unless its custom modes are given again.
    """
    sweep = read_finished(results, ["configuration", "exit_layer_counts"], "--controls-of")
    counts = sweep.exit_counts
    exiting = [
        entry
        for entry in sweep.manifest.configurations
        if entry["rule"] and not entry["control_of"] and not entry.get("prompt_exits")
    ]
    followed = {*modes, *(entry["mode"] for entry in exiting)}
    custom = [each for each in sweep.manifest.own if each["kind"] == MODE and each["name"] in followed]
    refuse_changed(custom, f"--controls-of {sweep.name}")
    return tuple(
        ControlSpec(of=entry["key"], counts=dict(counts[entry["key"]]), in_mode=mode)
        for entry in exiting
        for mode in modes or (None,)
        if sum(count > 0 for count in counts.get(entry["key"], {}).values()) > 1
    )
