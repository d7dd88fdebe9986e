import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from eexit.model.views import CacheView, TokensView
from torch import Tensor

from eexit.cpu import kernels
from eexit.cpu.kernels import AttentionOptions
from eexit.model.cache import KVCache

N_SLOTS, N_KEY_HEADS, WIDTH, VALUE_WIDTH = 5, 2, 24, 20


def attention(
    query_HD: Tensor, key_HSD: Tensor, value_HSW: Tensor, scaling: float, softcap: float | None, sink_H: Tensor | None
) -> Tensor:
    """Of one token over all these positions, in double precision."""
    group = query_HD.shape[0] // key_HSD.shape[0]
    key_HSD, value_HSW = (part.double().repeat_interleave(group, 0) for part in (key_HSD, value_HSW))
    scores_HS = (key_HSD @ query_HD.double()[:, :, None])[..., 0] * scaling
    if softcap is not None:
        scores_HS = softcap * torch.tanh(scores_HS / softcap)
    weight_HS = scores_HS.exp()
    sum_H = weight_HS.sum(-1) + (0 if sink_H is None else sink_H.double().exp())
    return ((weight_HS / sum_H[:, None])[:, None] @ value_HSW)[:, 0]


def test_float16_scores_above_its_range_are_scaled_before_the_soft_cap() -> None:
    torch.manual_seed(0)
    kv, position_B1 = KVCache(2, 8), torch.full((2, 1), 7)
    view = CacheView(kv, position_B1, 8)
    keys, values = kv.layer(0, torch.empty(1, 1, WIDTH, dtype=torch.float16), torch.empty(1, 1, 4, dtype=torch.float16))
    keys.normal_(std=100)
    values.normal_()
    query = torch.randn(2, 1, 1, WIDTH).mul(100).half()
    assert (query @ keys.mT).isinf().any()
    attended = view.attend(query, keys, values, AttentionOptions(1e-4, softcap=20.0))
    for row in range(2):
        expected = attention(query[row, :, 0], keys[row], values[row], 1e-4, 20.0, None)
        torch.testing.assert_close(attended[row, 0].double(), expected, rtol=2e-3, atol=2e-3)


OPTIONS: dict[str, list[Any]] = {
    "way": ["operators", "compiled"],
    "rows": [None, [3, 0, 2]],
    "hides": [False, True],
    "has_sinks": [False, True],
    "softcap": [None, 2.0],
    "window": [None, 7],
    "group": [1, 3],
    "dtype": [torch.float32, torch.bfloat16],
}


def any_four_in_every_combination() -> list[tuple[Any, ...]]:
    """A quarter of all combinations of the options' values, in which any four options have all of theirs."""
    choices = [
        (a, b, c, d, e, f, a ^ b ^ c ^ d, a ^ b ^ e ^ f) for a, b, c, d, e, f in itertools.product((0, 1), repeat=6)
    ]
    return [tuple(values[at] for values, at in zip(OPTIONS.values(), chosen, strict=True)) for chosen in choices]


@pytest.mark.parametrize(tuple(OPTIONS), any_four_in_every_combination())
def test_a_token_attends_to_its_own_rows_positions_up_to_its_own(
    request: pytest.FixtureRequest, way: str, dtype: torch.dtype, group: int, window: int | None,
    softcap: float | None, rows: list[int] | None, has_sinks: bool, hides: bool,
) -> None:  # fmt: skip
    if way == "compiled":
        request.getfixturevalue("can_compile")
    else:
        request.getfixturevalue("use_compiler")("no-such-compiler")
    torch.manual_seed(0)
    positions = torch.tensor([0, 9, 40, 3, 299])
    kv = KVCache(N_SLOTS, 600)
    kv.reserve(300)
    keys, values = kv.layer(
        0, torch.empty(N_KEY_HEADS, 1, WIDTH, dtype=dtype), torch.empty(N_KEY_HEADS, 1, VALUE_WIDTH, dtype=dtype)
    )
    keys.normal_()
    values.normal_()
    hidden = torch.zeros(N_SLOTS, 600, dtype=torch.bool)
    if hides:  # whole blocks of the last slot, and now and then a position of the others, but not their own
        hidden[:, ::3], hidden[4, :280] = True, True
        hidden[torch.arange(N_SLOTS), positions] = False
        for slot, position in hidden.nonzero().tolist():
            kv.hide(0, torch.tensor([slot]), torch.tensor([position]))
    view = CacheView(kv, positions[:, None], 300)
    slots = list(range(N_SLOTS)) if rows is None else rows
    if rows is not None:
        view = view.among(torch.tensor(rows))
    query, key, value = (
        torch.randn(len(slots), heads, 1, width, dtype=dtype)
        for heads, width in ((N_KEY_HEADS * group, WIDTH), (N_KEY_HEADS, WIDTH), (N_KEY_HEADS, VALUE_WIDTH))
    )
    all_keys, all_values = view.update(key, value, 0)
    sinks = torch.randn(N_KEY_HEADS * group, dtype=dtype) * 4 if has_sinks else None
    options = AttentionOptions(0.3, window, softcap, sinks)
    attended = view.attend(query, all_keys, all_values, options)
    hidden_NM = None if kv.hidden_LNS is None else kv.hidden_LNS[0]
    by_kernel = kernels.attention(query, all_keys, all_values, view.slots, view.own_position_BT, options, hidden_NM)
    assert (by_kernel is not None) == (way == "compiled" and softcap is None)
    assert attended.shape == (len(slots), 1, N_KEY_HEADS * group, VALUE_WIDTH)
    for row, slot in enumerate(slots):
        end = int(positions[slot]) + 1
        start = max(0, end - window) if window else 0
        assert keys[slot, :, end - 1].tolist() == key[row, :, 0].tolist(), "its own key is written before"
        there = [position for position in range(start, end) if not hidden[slot, position]]
        own_keys, own_values = keys[slot, :, there], values[slot, :, there]
        expected = attention(query[row, :, 0], own_keys, own_values, 0.3, softcap, sinks)
        tolerance: dict[str, Any] = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(attended[row, 0].float(), expected.float(), **tolerance)


@pytest.mark.parametrize("some", [None, [6, 0, 2, 5, 1]])  # among which rows have other numbers of tokens
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("hides", [False, True])
def test_tokens_of_a_row_attend_to_one_another_by_torchs_operators_too(
    use_compiler: Callable[[str], None], some: list[int] | None, window: int | None, softcap: float | None,
    has_sinks: bool, hides: bool,
) -> None:  # fmt: skip
    use_compiler("no-such-compiler")
    torch.manual_seed(0)
    slot_N, position_N = torch.tensor([3, 1, 3, 0, 3, 1, 1]), torch.tensor([22, 9, 20, 0, 21, 3, 12])
    kv = KVCache(N_SLOTS, 40)
    kv.reserve(40)
    keys, values = kv.layer(0, torch.empty(N_KEY_HEADS, 1, WIDTH), torch.empty(N_KEY_HEADS, 1, VALUE_WIDTH))
    keys.normal_()
    values.normal_()
    hidden = torch.zeros(N_SLOTS, 40, dtype=torch.bool)
    if hides:
        hidden[:, ::3] = True
        hidden[slot_N, position_N] = False
        slot_M, hidden_position_M = hidden.nonzero(as_tuple=True)
        kv.hide(0, slot_M, hidden_position_M)
    view = TokensView(kv, slot_N, position_N[:, None], 23)
    if some is not None:
        view, slot_N, position_N = view.among(torch.tensor(some)), slot_N[some], position_N[some]
    query, key, value = (
        torch.randn(len(slot_N), heads, 1, width)
        for heads, width in ((N_KEY_HEADS * 3, WIDTH), (N_KEY_HEADS, WIDTH), (N_KEY_HEADS, VALUE_WIDTH))
    )
    sink_H = torch.randn(N_KEY_HEADS * 3) * 4 if has_sinks else None
    attended = view.attend(query, *view.update(key, value, 0), AttentionOptions(0.3, window, softcap, sink_H))
    for token, (slot, position) in enumerate(zip(slot_N.tolist(), position_N.tolist(), strict=True)):
        start = max(0, position + 1 - window) if window else 0
        there = [other for other in range(start, position + 1) if not hidden[slot, other]]
        own_keys, own_values = keys[slot, :, there], values[slot, :, there]
        expected = attention(query[token, :, 0], own_keys, own_values, 0.3, softcap, sink_H)
        torch.testing.assert_close(attended[token, 0].double(), expected, rtol=1e-4, atol=1e-5)
