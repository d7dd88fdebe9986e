"""Prompts × configurations × seeds, as runs with identities that survive restarts."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from eexit.config import Mode, Prompt, SweepConfig


@dataclass(frozen=True)
class Configuration:
    """A mode and its KL factor; the factor is None for `normal`."""

    mode: Mode
    kl_factor: float | None


@dataclass(frozen=True)
class Run:
    """One prompt under one configuration and seed; its result is one generation."""

    run_id: str
    prompt: Prompt
    configuration: Configuration
    seed: int


def configurations(config: SweepConfig) -> list[Configuration]:
    """`normal` where it is asked for, and each other mode at each KL factor."""
    return [
        Configuration(mode, kl_factor)
        for mode in config.modes
        for kl_factor in ((None,) if mode == Mode.NORMAL else config.kl_factors)
    ]


def count_runs(config: SweepConfig) -> int:
    return len(config.prompts) * len(configurations(config)) * len(config.seeds)


def plan_runs(config: SweepConfig) -> Iterator[Run]:
    """Every run of the sweep, those of one prompt and seed in a row, so that they can share its prefill."""
    shared = config.model_dump(mode="json", exclude={"prompts", "modes", "kl_factors", "seeds"})
    for prompt in config.prompts:
        prompt_hash = _hash(shared, prompt.id, prompt.prompt, prompt.system)
        for seed in config.seeds:
            for configuration in configurations(config):
                run_id = _hash(prompt_hash, configuration.mode, configuration.kl_factor, seed)
                yield Run(run_id, prompt, configuration, seed)


def _hash(*content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
