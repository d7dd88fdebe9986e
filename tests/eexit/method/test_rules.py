"""Input that rules and modes refuse, in one line with the way out."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axes import EXITABLE, control
from tiny_models import GROUPED, tiny_model
from transformers import AutoModelForCausalLM, Gemma4TextConfig, PreTrainedModel

from eexit.decode.engine import Engine, refuse_mode
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.errors import UsageError
from eexit.method.custom import CustomSource, use_text
from eexit.method.modes import MODES, Mode
from eexit.method.rules import BLIND, RULES, ExitHistogram, Parameter, Rule
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.runs import configurations
from eexit.plan.sweep_config import SweepConfig

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"
PROMPTS = [{"id": "0", "prompt": "Why?"}]


@pytest.mark.parametrize("kind", [RULES, MODES])
def test_each_says_what_it_is(kind: dict[str, Rule | Mode]) -> None:
    definitions = [entry.definition for entry in kind.values()]
    assert all(len(definition) > 20 for definition in definitions)
    assert len(set(definitions)) == len(definitions)


def test_rules_that_look_at_something_say_at_what() -> None:
    assert {name for name, rule in RULES.items() if not rule.score_name} == set(BLIND)


@pytest.mark.parametrize(
    ("rule", "parameter", "message"),
    [
        ("kl", float("inf"), "takes a KL factor ≥ 0, as in kl=0.5, got inf"),
        ("kl", None, "got none"),
        ("agree", 1.0, "has no parameter, got 1"),
        ("confidence", 0.0, "a threshold above 0 and up to 1, as in confidence=0.9, got 0"),
        ("margin", -0.1, "a threshold from 0 to 1, as in margin=0.5, got -0.1"),
        ("entropy", -1.0, "a threshold ≥ 0, as in entropy=0.5, got -1"),
        ("entropy", float("inf"), "a threshold ≥ 0, as in entropy=0.5, got inf"),
        ("similarity", float("nan"), "a threshold from -1 to 1, as in similarity=0.95, got nan"),
        ("similarity", None, "a threshold from -1 to 1, as in similarity=0.95, got none"),
        ("patience", 2.5, r"takes a whole number ≥ 2 \(exitable layers in a row\), as in patience=2, got 2.5"),
        ("fixed", 2.5, r"takes a whole number ≥ 0 \(exit layer\), as in fixed=10, got 2.5"),
        ("fixed", -1.0, r"takes a whole number ≥ 0 \(exit layer\), as in fixed=10, got -1"),
        ("random", 1.0, "give --controls-of RESULTS"),
        ("random", control(0, 0, 0, 0), "unfrozen/kl/1 decided no token"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(rule: str, parameter: Parameter, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RULES[rule].check(parameter)


@pytest.mark.parametrize("rule", ["confidence", "margin", "entropy", "similarity", "patience"])
def test_what_just_reaches_a_threshold_exits(rule: str) -> None:
    score_BE = torch.tensor([[1.5, 2.0, 2.5]])
    chances = RULES[rule].chances(score_BE, torch.full((1, 3), 2.0))
    assert chances.exit_BE.tolist() == ([[1, 1, 0]] if rule == "entropy" else [[0, 1, 1]])


def test_a_rule_that_names_a_layer_needs_it_to_be_exitable() -> None:
    config = SweepConfig.model_validate({"prompts": PROMPTS, "rules": ["fixed=10,12"]})
    says = "rule fixed can't exit at layer 12: the exitable layers are 5 10 15 20 25; .* give others with --exit-layers"
    with pytest.raises(UsageError, match=says):
        resolve_exitable_layers(config, 30)
    for layer, beyond in ((29, False), (27, True), (30, True)):
        config = SweepConfig.model_validate({"prompts": PROMPTS, "rules": [f"fixed={layer}"]})
        says = f"rule fixed can't exit at layer {layer}: the exitable layers are 5 10 15 20 25, and the final one is 29"
        with pytest.raises(UsageError, match=says) if beyond else nullcontext():
            resolve_exitable_layers(config, 30)
    follows = {"of": "unfrozen/kl/1", "counts": {4: 1, 29: 3}}
    config = SweepConfig.model_validate({"prompts": PROMPTS, "controls": [follows]})
    with pytest.raises(UsageError, match="unfrozen/kl/1 exits at layer 4: here the exitable layers are 5 10 15 20 25"):
        resolve_exitable_layers(config, 30)


def test_patience_that_the_exitable_layers_can_not_try_is_refused() -> None:
    config = SweepConfig.model_validate({"prompts": PROMPTS, "rules": ["patience=2,5,6"]})
    with pytest.raises(UsageError, match=r"^patience=6 never exits: the exitable layers are only 5 10 15 20 25; lower"):
        resolve_exitable_layers(config, 30)
    assert RULES["patience"].per_layer(5.0, (5, 10, 15, 20, 25)) == [5.0] * 5


def test_a_control_exits_as_often_at_each_layer_as_what_it_follows() -> None:
    assert RULES["random"].per_layer(control(20, 30, 0, 50), (1, 3, 4)) == [20 / 100, 30 / 80, 0]
    assert RULES["random"].per_layer(ExitHistogram("unfrozen/kl/1", ((1, 5),)), (1, 3, 4)) == [1, 0, 0]


def test_the_worked_example_of_contributing_is_a_rule(llama: PreTrainedModel, own_exits: None) -> None:
    use_text(
        CustomSource(
            "odds.py", CONTRIBUTING.read_text().split("## Add a rule")[1].split("```python")[1].split("```")[0]
        )
    )
    config = SweepConfig.model_validate({"prompts": PROMPTS, "rules": ["odds=1.5,9"], "modes": ["skip"]})
    with pytest.raises(ValueError, match=r"rule odds takes a ratio ≥ 1, as in odds=3, got 0.5"):
        SweepConfig.model_validate({"prompts": PROMPTS, "rules": ["odds=0.5"]})
    decoding = DecodingConfig(exitable_layers=EXITABLE, max_new_tokens=24, eos_token_ids=frozenset(), record_top_k=2)
    exits: set[Parameter] = set()
    requests = [Request((5, 80, 7, 7, 31), configuration) for configuration in configurations(config)]
    for request, (_, trace) in zip(requests, sorted(Engine(Decoder(llama), decoding).generate(requests)), strict=True):
        assert isinstance(trace, RequestOutput)
        assert isinstance(request.configuration, EarlyExit)
        sure_TE = trace.exit_score_TE[1:] >= request.configuration.parameter
        first_T = np.where(sure_TE.any(1), sure_TE.argmax(1), len(EXITABLE))
        assert trace.exit_layer_T[1:].tolist() == np.array([*EXITABLE, 6])[first_T].tolist()
        if len({*trace.exit_layer_T[1:]}) > 1:
            exits.add(request.configuration.parameter)
        top_TK = trace.exit_top_prob_TK[1:][first_T < len(EXITABLE)]
        its_T = trace.exit_score_TE[1:][first_T < len(EXITABLE), first_T[first_T < len(EXITABLE)]]
        np.testing.assert_allclose(its_T, top_TK[:, 0] / top_TK[:, 1], rtol=1e-4)
    assert exits


def test_a_mode_that_a_model_is_not_made_for_is_refused() -> None:
    with pytest.raises(
        UsageError, match="mode skip can't be used with this model: its layers are given no attention masks"
    ):
        refuse_mode("skip", Decoder(tiny_model("mpt")))
    wide: dict[str, Any] = {
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 2,
        "hidden_size_per_layer_input": 0,
    }
    layer_types = ["sliding_attention"] * 5 + ["full_attention"] * 2
    config = Gemma4TextConfig(**GROUPED, **wide, layer_types=layer_types)
    uneven = Decoder(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    with pytest.raises(UsageError, match="mode frozen_cache can't be used with this model: its layers' keys and valu"):
        refuse_mode("frozen_cache", uneven)
