"""Runs of a sweep (prompts × configurations × seeds), with ids that are the same after a restart."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any, Final

from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.method.rules import CONTROL, ONLINE
from eexit.output.text import did_you_mean, truncate_lines
from eexit.plan.artefacts import GATE, KV_MAPS, OF_SOME, PROBE
from eexit.plan.configuration import (
    EVERY,
    NORMAL,
    PROMPT_MARK,
    Columns,
    Configuration,
    EarlyExit,
    NoExit,
    gives_its_exits,
    hashed,
    parse_drafts,
    parse_exit_set,
    renamed,
    same_for_every_seed,
    without_mode,
)
from eexit.plan.hashes import content_hash
from eexit.plan.sweep_config import GRID, Prompt, SweepConfig

OK: Final = "ok"  # status of a run
ERROR: Final = "error"
EOS: Final = "eos"  # `finish_reason` of a run
LENGTH: Final = "length"  # at max_new_tokens
STOP: Final = "stop"  # only requests with `DecodingConfig.stop_fn`, no run of a sweep


@dataclass(frozen=True)
class Run:
    """One prompt with one configuration and seed; its result is one generated text."""

    run_id: str
    prompt: Prompt
    configuration: Configuration
    seed: int
    stored_names: Mapping[str, str] = field(default_factory=dict, hash=False)  # where files have others

    @property
    def columns(self) -> Columns:
        """The configuration's `columns`, as files have them."""
        shown = self.configuration.columns
        return {**renamed(self.configuration, self.stored_names).columns, "kl_factor": shown["kl_factor"]}


def configurations(config: SweepConfig) -> list[Configuration]:
    """Return all configurations of a sweep in order: mode `normal`, every other mode × rule × parameter, and drafts.

    A control follows its configuration, or comes last if the sweep lacks it. A sweep that has grown has only the
    configurations of `SweepConfig.only`.
    """
    controls: dict[str, list[Configuration]] = {}
    for control in config.controls:
        controls.setdefault(control.of, []).append(EarlyExit(control.mode, CONTROL, control.parameter))
    planned: list[Configuration] = []
    for configuration in _grid(config):
        planned += [configuration, *controls.pop(configuration.key, [])]
    planned += chain(*controls.values())
    only = {*config.only}
    return [each for each in planned if each.key in only] if only else planned


def refuse_unknown_only(config: SweepConfig) -> None:
    """Raise `UsageError` for a key of `only` that is not in the grid, and if `only` has no use for prompt exits."""
    planned = [each.key for each in configurations(config)]
    if unknown := [key for key in config.only if key not in planned]:
        grid = [each.key for each in configurations(config.model_copy(update={"only": ()}))]
        way_out = did_you_mean(unknown[0], grid, f"it has {', '.join(truncate_lines(grid, 3))}")
        raise UsageError(f"--only {unknown[0]} is no configuration of this sweep: {way_out}")
    if config.prompt_exits and not any(each.prompt_exits for each in configurations(config)):
        raise UsageError(f"--prompt-exits has no effect: none of the configurations to run ends in {PROMPT_MARK}")


def _grid(config: SweepConfig) -> Iterator[Configuration]:
    for mode in config.modes:
        if mode == NORMAL:
            yield NoExit()
            continue
        for rule, parameters in config.rules.items():
            for parameter in parameters or (None,):
                looks = not gives_its_exits(EarlyExit(mode, rule, parameter))
                reads = rule in ONLINE and ONLINE[rule].needs_distribution
                gated = [f"{threshold:g}" for threshold in config.gate_thresholds] if config.gate and reads else []
                gates = [None, *gated] if config.only or not gated else gated
                in_prompt = [False, True] if config.only and config.prompt_exits else [config.prompt_exits]
                sets = config.exit_sets if looks else (EVERY,)
                for exit_set, gate, prompt_exits in product(sets, gates, in_prompt):
                    layers = parse_exit_set(exit_set)
                    layers = () if layers == config.exit_layers else layers
                    yield EarlyExit(mode, rule, parameter, layers, gate, prompt_exits)
    for text in config.draft:
        yield from parse_drafts(text)


def count_runs(config: SweepConfig) -> int:
    return len(config.prompts) * len(configurations(config)) * len(config.seeds)


def same_in_several_modes(config: SweepConfig) -> dict[str, list[str]]:
    """Return the modes in which all runs have the same texts, by rule and parameter: fixed/10 → skip, unfrozen."""
    modes: dict[Configuration, list[str]] = {}
    for each in configurations(config):
        modes.setdefault(without_mode(each), []).append(each.mode)
    return {each.rule_key: of for each, of in modes.items() if isinstance(each, EarlyExit) and len(of) > 1}


def count_different_runs(config: SweepConfig) -> int:
    """Return the number of distinct runs: runs that are the same for every seed or have the same texts count once."""
    same = same_for_every_seed(configurations(config), config.temperature)
    n_seeds = {without_mode(each): 1 if each.key in same else len(config.seeds) for each in configurations(config)}
    return len(config.prompts) * sum(n_seeds.values())


def used_by(configuration: Configuration) -> frozenset[str]:
    """Return the roles, such as probe or gate, of the artefacts that a configuration's runs depend on."""
    if not isinstance(configuration, EarlyExit):
        return frozenset()
    rule, state = ONLINE.get(configuration.rule), MODES.get(configuration.mode)
    uses = {PROBE: rule and rule.needs_probe, GATE: configuration.gate, KV_MAPS: state and state.needs_kv_maps}
    return frozenset(role for role in OF_SOME if uses[role])


def shared_fields(config: SweepConfig, roles: Collection[str]) -> dict[str, Any]:
    """Return all fields that runs of a sweep with these artefact roles share; artefacts count by their digests."""
    defaults = {  # omitted with these values, so that ids of older sweeps stay valid
        "record_full_depth": "all", "quantize": None, "thinking": None, "thinking_until": None,
    }  # fmt: skip
    same = {name for name, default in defaults.items() if getattr(config, name) == default}
    digests = {role: digest for role, digest in config.digests.items() if role not in OF_SOME or role in roles}
    shared = config.model_dump(mode="json", exclude={*OF_SOME, *GRID, *same, *digests})
    return {**shared, **({} if PROBE in digests else {PROBE: None}), "digests": digests}


def plan_runs(config: SweepConfig) -> Iterator[Run]:
    """Yield every run of the sweep; runs of one prompt and seed are successive, so that they can share a prefill."""
    stored = {shown: name for name, shown in config.shown_names.items()}
    grid = [(each, content_hash(hashed(renamed(each, stored))), used_by(each)) for each in configurations(config)]
    shared = {roles: shared_fields(config, roles) for roles in dict.fromkeys(roles for *_, roles in grid)}
    for prompt in config.prompts:
        marking = prompt.answer, prompt.answer_pattern
        marked = [marking] if any(marking) else []  # omitted without an answer, so that ids of older sweeps stay valid
        own = {name: value for name in ("prefiller", "max_new_tokens") if (value := getattr(prompt, name)) is not None}
        asked = prompt.id, prompt.prompt, prompt.system, *marked, *([own] if own else [])
        prompt_hash = {roles: content_hash(fields, *asked) for roles, fields in shared.items()}
        for seed in config.seeds:
            for configuration, configuration_hash, roles in grid:
                run_id = content_hash(prompt_hash[roles], configuration_hash, seed)
                yield Run(run_id, prompt, configuration, seed, stored)
