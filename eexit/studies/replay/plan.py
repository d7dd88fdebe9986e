"""What is replayed of a finished sweep: which settings, on which texts, and whether that takes the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.rules import CONTROL, ONLINE, ORACLES
from eexit.method.states import STATES, alters
from eexit.plan.artefacts import FLAGS, GATE, PROBE, STATE_MAPS, locations_of
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import EVERY, NORMAL, PERFECT, Exit, configuration_of, depends_on_seed
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.runs import configurations
from eexit.plan.splits import groups
from eexit.plan.validation_errors import explain
from eexit.results.layout import MANIFEST
from eexit.results.store.finished_sweep import FinishedSweep, refuse_unknown
from eexit.studies.replay.study import ReplayStudy
from eexit.studies.replay.transcripts import read_transcripts

GATE_THRESHOLDS: Final = "gate_thresholds"
UNALTERED: Final = tuple(name for name, state in STATES.items() if not alters(state))


@dataclass(frozen=True)
class SettingsToReplay:
    """The settings to replay: all of these KL factors and rules, in all of these modes and exit sets.

    With thresholds of a gate, rules that read are replayed behind it, `PERFECT` behind one that always knows.
    """

    kl_factors: Sequence[float]
    rules: Mapping[str, Sequence[float]]
    modes: Sequence[str] = ()  # none: those of the sweep
    exit_sets: Sequence[str] = (EVERY,)
    gate_thresholds: Sequence[str] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)  # settings of the sweep, such as decide_on, by name


def make_replay_plan(sweep: FinishedSweep, asked: SettingsToReplay, text_of: str) -> ReplayStudy:
    """What to replay. Raises `UsageError` for what can't be replayed.

    Without `modes`, rules that look at the final layer are replayed in modes that leave the state alone, where all that
    they need was recorded, and others in the modes of the sweep.
    """
    kl_factors, rules, modes = asked.kl_factors, asked.rules, asked.modes
    if not kl_factors and not rules:
        raise UsageError("nothing is asked for: give --kl-factors 0.25:16:13, or --rules confidence=0.5:0.95:10")
    if CONTROL in rules:
        raise UsageError(f"rule {CONTROL} follows a configuration and has no parameter: leave it out of --rules")
    if NORMAL in modes:
        raise UsageError(f"mode {NORMAL} has no exits to replay: choose from {', '.join(STATES)}")
    stored = sweep.config()
    stored_states = tuple(mode for mode in stored.modes if mode in STATES)
    all_modes = tuple(modes) or tuple(dict.fromkeys((*UNALTERED, *stored_states)))
    grid: dict[str, Any] = {
        "modes": all_modes,
        "kl_factors": tuple(kl_factors),
        "rules": {name: tuple(parameters) for name, parameters in rules.items()},
        "exit_sets": tuple(asked.exit_sets),
    }
    if thresholds := tuple(float(text) for text in asked.gate_thresholds if text != PERFECT):
        grid[GATE_THRESHOLDS] = thresholds
    config = _config(stored, grid, sweep.manifest.exitable_layers, asked.replaced)
    n_layers = sweep.manifest.model["n_layers"]
    resolve_exitable_layers(config, n_layers)  # refuses parameters that do not fit them
    default = {rule: UNALTERED if rule in ORACLES else stored_states or UNALTERED for rule in ("kl", *rules)}
    exits = [each for each in configurations(config) if isinstance(each, Exit)]
    if PERFECT in asked.gate_thresholds:
        ungated = [replace(each, gate=None) for each in exits if each.rule in ONLINE and ONLINE[each.rule].reads]
        exits += [replace(each, gate=PERFECT) for each in dict.fromkeys(ungated)]
    settings = [each for each in exits if modes or each.state in default[each.rule]]
    there = {each["key"]: configuration_of(each) for each in sweep.manifest.configurations}
    refuse_unknown([text_of], list(there), sweep.name)
    is_same = not depends_on_seed(there[text_of], stored.temperature)
    transcripts = read_transcripts(sweep.store, text_of, once=is_same)
    if not transcripts:
        raise UsageError(f"{sweep.name} has no texts of {text_of}: all its runs failed, or decided no token")
    groups_of = groups(sweep.manifest.config["prompts"])
    return ReplayStudy(config, settings, text_of, transcripts, n_layers, groups_of)


def _config(
    stored: SweepConfig, grid: Mapping[str, Any], exitable_layers: Sequence[int], replaced: Mapping[str, str]
) -> SweepConfig:
    """The sweep's configuration with another grid: what checks the settings is what checks those of sweeps."""
    rules = [ONLINE[name] for name in grid["rules"] if name in ONLINE]
    uses = {
        PROBE: any(rule.probes for rule in rules),
        GATE: GATE_THRESHOLDS in grid,
        STATE_MAPS: any(STATES[mode].maps for mode in grid["modes"] if mode in STATES),
    }
    unused = {role: None for role, used in uses.items() if not used}
    # What was not recorded is found with the model.
    reading = {"exit_layers": tuple(exitable_layers), "prompts": stored.prompts[:1], "observe": "all"}
    same = {name: value for name, value in dict(stored).items() if name not in ("draft", "controls", "digests")}
    known = {role: digest for role, digest in stored.digests.items() if role not in unused}
    digests = {} if FLAGS.keys() & replaced.keys() else {"digests": known}  # of other artefacts they are found out
    plain = {GATE_THRESHOLDS: SweepConfig.model_fields[GATE_THRESHOLDS].default}
    try:
        config = SweepConfig.model_validate({**same, **plain, **unused, **grid, **reading, **replaced, **digests})
    except ValidationError as error:
        raise UsageError(explain(error, {*grid, *replaced}, Path(MANIFEST), SweepConfig.model_fields)) from error
    for role in locations_of(dict(config)):
        if role not in replaced and config.digests[role] != stored.digests.get(role):
            raise UsageError(f"the {role} of the sweep was trained anew since: run the sweep again")
    return config
