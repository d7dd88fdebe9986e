"""Parameters that rules refuse, and thresholds that are just reached."""

from pathlib import Path

import numpy as np
import pytest
import torch
from axes import EXITABLE, control
from byte_model import sweep_of
from references import decoder_of
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request
from eexit.method.custom import CustomSource, use_text
from eexit.method.rules import RULES, ExitHistogram, Parameter
from eexit.plan.configuration import EarlyExit
from eexit.plan.runs import configurations

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"


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
def test_a_score_that_just_reaches_a_threshold_exits(rule: str) -> None:
    score_BE = torch.tensor([[1.5, 2.0, 2.5]])
    chances = RULES[rule].chances(score_BE, torch.full((1, 3), 2.0))
    assert chances.exit_BE.tolist() == ([[1, 1, 0]] if rule == "entropy" else [[0, 1, 1]])


def test_parameters_of_each_layer() -> None:
    """A control exits as often at each layer as the configuration that it copies."""
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
    decoding = DecodingConfig(exitable_layers=EXITABLE, max_new_tokens=24, eos_token_ids=frozenset(), record_top_k=2)
    exits = [*configurations(sweep_of("a/model", rules=["odds=1.5,9"], modes=["skip"]))]
    outcomes = Engine(decoder_of(llama), decoding).generate([Request((5, 80, 7, 7, 31), each) for each in exits])
    n_layers = set[int]()
    for index, trace in traces_of(outcomes).items():
        exit, exit_T, score_TE = exits[index], trace.exit_layer_T[1:], trace.exit_score_TE[1:]
        assert isinstance(exit, EarlyExit)
        meets_TE = score_TE >= exit.parameter
        first_T = np.where(meets_TE.any(1), meets_TE.argmax(1), len(EXITABLE))
        assert exit_T.tolist() == np.array([*EXITABLE, 6])[first_T].tolist()
        n_layers.add(len({*exit_T}))
        exited_T = first_T < len(EXITABLE)
        top_TK = trace.exit_top_prob_TK[1:][exited_T]
        np.testing.assert_allclose(score_TE[exited_T, first_T[exited_T]], top_TK[:, 0] / top_TK[:, 1], rtol=1e-4)
    assert max(n_layers) > 1
