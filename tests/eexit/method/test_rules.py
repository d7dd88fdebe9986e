"""Parameters that rules refuse, and thresholds that are just reached."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from axes import EXITABLE, control
from byte_model import sweep_of
from rows import DECODING, PROMPTS, as_reference, grid
from transformers import PreTrainedModel

from eexit.method.custom import CustomSource, use_text
from eexit.method.rules import RULES, ExitHistogram, Parameter
from eexit.plan.configuration import EarlyExit
from eexit.plan.runs import configurations

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.mark.parametrize(
    ("rule", "parameter", "message"),
    [
        ("kl", float("inf"), "takes a KL factor ≥ 0, as in kl=0.5, got inf"),
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


def test_a_score_that_just_reaches_a_threshold_exits_and_parameters_of_each_layer() -> None:
    """A control exits as often at each layer as the configuration that it copies."""
    for rule in ("confidence", "margin", "entropy", "similarity", "patience"):
        chances = RULES[rule].chances(torch.tensor([[1.5, 2.0, 2.5]]), torch.full((1, 3), 2.0))
        assert chances.exit_BE.tolist() == ([[1, 1, 0]] if rule == "entropy" else [[0, 1, 1]]), rule
    assert RULES["patience"].per_layer(5.0, (5, 10, 15, 20, 25)) == [5.0] * 5
    assert RULES["random"].per_layer(control(20, 30, 0, 50), (1, 3, 4)) == [20 / 100, 30 / 80, 0]
    assert RULES["random"].per_layer(ExitHistogram("unfrozen/kl/1", ((1, 5),)), (1, 3, 4)) == [1, 0, 0]
    with pytest.raises(ValueError, match="exit set 2,4: layer 2 is not exitable, only 1, 3, 4 are"):
        EarlyExit("unfrozen", "confidence", 0.5, (2, 4)).per_layer(EXITABLE)


def test_the_worked_example_of_contributing_is_a_rule(llama: PreTrainedModel, own_exits: None) -> None:
    section = CONTRIBUTING.read_text().split("## Add a rule")[1]
    use_text(CustomSource("odds.py", section.split("```python")[1].split("```")[0]))
    with pytest.raises(ValueError, match=r"rule odds takes a ratio ≥ 1, as in odds=3, got 0.5"):
        sweep_of("a/model", rules=["odds=0.5"])
    exits = configurations(sweep_of("a/model", rules=["odds=1.5,9"], modes=["skip"]))
    traces = as_reference(llama, grid([*exits], PROMPTS[1:2]), replace(DECODING, max_new_tokens=24))
    for trace, odds in zip(traces, (1.5, 9), strict=True):
        exits_T = trace.exit_layer_T[1:] < 6
        assert 0 < exits_T.sum() < len(exits_T)
        top_TK = trace.exit_top_prob_TK[1:][exits_T]
        assert (top_TK[:, 0] / top_TK[:, 1] >= odds * (1 - 1e-4)).all()
