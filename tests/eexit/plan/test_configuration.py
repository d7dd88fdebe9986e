"""Configurations match their columns, and some have the same run for every seed."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from eexit.method.modes import MODES
from eexit.method.rules import RULES, ExitHistogram
from eexit.plan.configuration import (
    COLUMNS,
    Configuration,
    EarlyExit,
    NoExit,
    configuration_of,
    depends_on_seed,
    hashed,
    parse_drafts,
    renamed_key,
    short_name,
)

COPYING = ExitHistogram("skip/kl/0.5", ((1, 3), (6, 2)))
OF_COPYING = {"of": COPYING.of, "counts": COPYING.counts}
KINDS: dict[str, tuple[Configuration, str | None, object, object]] = {  # and what ids are hashes of
    "normal": (NoExit(), None, None, None),
    "skip/kl/0.5": (EarlyExit("skip", "kl", 0.5), "kl", 0.5, None),
    "skip/agree": (EarlyExit("skip", "agree"), "agree", None, None),
    "skip/random/kl/0.5": (EarlyExit("skip", "random", COPYING), "random", OF_COPYING, None),
    "draft/20:4": (parse_drafts("20:4")[0], None, None, {"layer": 20, "n_tokens": 4}),
}


@pytest.mark.parametrize("key", KINDS)
def test_a_configuration_can_be_made_from_its_columns_and_ids_are_hashes_of_four_values(key: str) -> None:
    (configuration, rule, parameter, draft), mode = KINDS[key], key.partition("/")[0]
    columns = configuration.columns
    assert (configuration.key, columns["configuration"], columns["mode"], tuple(columns)) == (key, key, mode, COLUMNS)
    without_counts = EarlyExit("skip", "random", ExitHistogram(COPYING.of, ()))  # which are not among the columns
    expected = without_counts if columns["control_of"] else configuration
    assert configuration_of(columns) == expected
    assert configuration_of({name: value for name, value in columns.items() if value is not None}) == expected
    assert hashed(configuration) == {"mode": mode, "rule": rule, "parameter": parameter, "draft": draft}


def test_the_key_of_a_configuration_with_prompt_exits_ends_with_them_and_only_its_id_has_them() -> None:
    plain = EarlyExit("skip", "confidence", 0.9, (20, 25), "0.3")
    in_prompt = replace(plain, prompt_exits=True)
    assert in_prompt.key == "skip/confidence/0.9@20,25+gate0.3+prompt"
    assert configuration_of(in_prompt.columns) == in_prompt
    assert hashed(in_prompt) == {**hashed(plain), "prompt_exits": True}
    assert renamed_key(in_prompt.key, {"prompt": "x", "skip": "y"}) == "y/confidence/0.9@20,25+gate0.3+prompt"


def test_a_run_depends_on_the_seed_if_tokens_or_exits_are_drawn_or_it_is_not_known() -> None:
    score_BE = torch.tensor(np.random.default_rng(0).uniform(0.05, 0.95, (50, 5)).round(2), dtype=torch.float32)
    for name, rule in RULES.items():
        chances = rule.chances(score_BE.round() if name == "agree" else score_BE, torch.full((50, 5), 0.5))
        exits = rule.per_layer(3.0, (1, 3)) if name == "fixed" else chances.exit_BE.numpy()  # fixed: 1 at one layer
        assert depends_on_seed(EarlyExit("skip", name), 0.0) == (not np.isin(exits, (0, 1)).all()), name
        assert depends_on_seed(EarlyExit("skip", name), 0.7)
    for configuration in (KINDS["normal"][0], KINDS["draft/20:4"][0]):
        assert [depends_on_seed(configuration, temperature) for temperature in (0.0, 1.0, None)] == [False, True, True]
    assert depends_on_seed(EarlyExit("skip", "a rule of a later version"), 0.0)
    rules = ", ".join(f'"{name}"' for name in RULES if RULES[name].draws)
    assert f"~runs.rule.isin([{rules}])" in (Path(__file__).parents[3] / "eexit" / "README.md").read_text()


def test_different_configurations_have_different_short_names() -> None:
    parameters = (None, 0.0, 0.5, 5.0, 0.05, 10.5, -0.5, 1e-05, COPYING, ExitHistogram("skip/kl/5", ((1, 3),)))
    sets, gates = ((), (5,), (0, 5), (20, 25)), (None, "0.5", "0.05", "perfect")
    exits = product([*MODES, "later"], [*RULES, "later"], parameters, sets, gates, (False, True))
    every: list[Configuration] = [NoExit(), NoExit("later"), *parse_drafts("2,20:4,40")]
    every += [EarlyExit(*each) for each in exits]
    keys = {each.key for each in every}
    short = {short_name(key): key for key in keys}
    assert len(short) == len(keys)
    assert all(len(name) <= len(key) for name, key in short.items())
    assert short_name("frozen_residual/confidence/0.97@20,25+gate0.1") == "F·conf .97@20,25+gate.1"
    assert short_name("skip/random/kl/0.5") == "S·random kl .5"
