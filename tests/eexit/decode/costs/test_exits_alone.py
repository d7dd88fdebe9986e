"""What exits alone cost: the layers up to them and one read, whatever the state; against plain loops."""

import numpy as np
import pytest

from eexit.decode.costs.counting import LOOKS, Prices, cost_columns
from eexit.method.states import STATES

N_LAYERS, EXITABLE, HEAD, N_PROMPT = 6, (1, 3), 100, 5
LAYER_L, POSITION_L = np.array([7, 8, 9, 10, 11, 12]), np.array([1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("mode", [mode for mode, state in STATES.items() if not state.maps])
def test_exits_alone_cost_their_layers_and_one_read(mode: str) -> None:
    look_XK = np.zeros((len(EXITABLE) + 1, len(LOOKS)), np.int64)
    look_XK[:, LOOKS.index("head_reads")] = HEAD
    prices = Prices(0, LAYER_L, LAYER_L // 3, POSITION_L, look_XK, [None] * N_LAYERS, LAYER_L, 0)
    exit_layer_T = np.array([3, 1, 5, 1])
    expected = 0
    for place, exit_layer in enumerate(exit_layer_T):
        for layer in range(exit_layer + 1):
            expected += LAYER_L[layer] + POSITION_L[layer] * (N_PROMPT + place + 1)
        expected += HEAD
    columns = cost_columns(prices, None, exit_layer_T, EXITABLE, mode, N_PROMPT)
    assert columns["cost_exits"] == expected
    assert (columns["cost_needed"] or 0) >= expected or mode == "skip", "whose later tokens attend to fewer positions"
    assert (columns["cost_full"] or 0) > expected
