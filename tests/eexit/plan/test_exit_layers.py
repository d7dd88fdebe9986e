from typing import Any

import pytest
from byte_model import sweep_of

from eexit.errors import UsageError
from eexit.plan.exit_layers import resolve_exitable_layers


def test_exitable_layers_default_to_every_fifth() -> None:
    assert resolve_exitable_layers(sweep_of("a/model", rules=["fixed=29"]), 30) == (5, 10, 15, 20, 25)
    assert resolve_exitable_layers(sweep_of("a/model"), 26) == (5, 10, 15, 20)
    assert resolve_exitable_layers(sweep_of("a/model", exit_layers=(0, 28)), 30) == (0, 28)


def test_layers_that_cannot_exit_are_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"draft": ("7:2",)}, "draft 7:2 is not at an exitable layer, which are 5, 10, 15, 20, 25: choose one"),
        ({"exit_layers": (3, 29)}, "exit layer 29 is not below the final layer: .* may go up to 28"),
        ({"exit_every": 29}, "no exitable layer: .*0…29 and --exit-every is 29"),
        ({"rules": ["fixed=10,12"]}, "rule fixed can't exit at layer 12: the exitable layers are 5 10 15 20 25; .*"),
        ({"rules": ["fixed=27"]}, "can't exit at layer 27: the exitable .* 5 10 15 20 25, and the final one is 29"),
        ({"rules": ["fixed=30"]}, "can't exit at layer 30: the exitable layers"),
        ({"controls": [{"of": "unfrozen/kl/1", "counts": {4: 1, 29: 3}}]}, "unfrozen/kl/1 exits at layer 4: here the"),
        ({"rules": ["patience=2,5,6"]}, "^patience=6 never exits: the exitable layers are only 5 10 15 20 25; lower"),
    ]
    for fields, message in refused:
        with pytest.raises(UsageError, match=message):
            resolve_exitable_layers(sweep_of("a/model", **fields), 30)
