"""Which setting stands for a rule."""

import pytest

from reports.read.rule_parameters import representative, representatives
from reports.read.sweep import Sweep
from reports.shared.per_configuration import per_configuration


@pytest.mark.parametrize(
    ("rule", "parameters", "expected"),
    [("kl", [0.25, 0.8, 4.0], 0.8), ("fixed", [25.0, 5.0, 10.0], 10.0), ("of a later version", [0.5, 0.9], 0.5)],
)
def test_the_middle_parameter_stands_for_a_rule(rule: str, parameters: list[float], expected: float) -> None:
    assert representative(rule, parameters) == expected


def test_each_rule_of_each_mode_is_represented_once(several: Sweep) -> None:
    keys = [row["configuration"] for row in representatives(per_configuration(several))]
    assert keys == [
        f"{mode}/{setting}" for mode in ("unfrozen", "frozen_residual") for setting in ("confidence/0.7", "kl/0.5")
    ]
