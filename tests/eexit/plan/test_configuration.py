"""Which configurations have the same run for every seed, beside what their rules leave to chance."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eexit.method.rules import RULES
from eexit.plan.configuration import depends_on_seed


@pytest.mark.parametrize("name", RULES)
def test_a_greedy_run_depends_on_the_seed_if_its_rule_leaves_exits_to_chance(name: str) -> None:
    evidence_BE = torch.tensor(np.random.default_rng(0).uniform(0.05, 0.95, (50, 5)).round(2), dtype=torch.float32)
    chances = RULES[name].chances(evidence_BE.round() if name == "agree" else evidence_BE, torch.full((50, 5), 0.5))
    is_certain = bool(np.isin(chances.stop_BE.numpy(), (0, 1)).all())
    if name == "fixed":  # whose setting is 1 at one layer
        is_certain = bool(np.isin(RULES[name].setting(3.0, (1, 3)), (0, 1)).all())
    assert depends_on_seed(name, 0.0) == (not is_certain)
    assert depends_on_seed(name, 0.7)


def test_the_readme_names_the_rules_that_leave_exits_to_chance() -> None:
    rules = ", ".join(f'"{name}"' for name in RULES if RULES[name].draws)
    assert f"~runs.rule.isin([{rules}])" in (Path(__file__).parents[3] / "eexit" / "README.md").read_text()


def test_normal_and_drafts_depend_on_it_if_tokens_are_sampled_and_what_is_not_known_may_depend_on_it() -> None:
    assert not depends_on_seed(None, 0.0)
    assert depends_on_seed(None, 1.0)
    assert depends_on_seed(None, None)
    assert depends_on_seed("a rule of a later version", 0.0)
