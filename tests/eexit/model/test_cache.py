"""KV cache of sequences that come and go: its columns, and the content of its slots."""

from collections.abc import Callable

import pytest
import torch
from card import Card, There
from torch import Tensor

from eexit.model.cache import BLOCK_COLUMNS, KVCache

N_SLOTS, N_HEADS, WIDTH = 3, 2, 4


def numbers(n_rows: int, n_tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(n_rows, N_HEADS, n_tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def filled(n_tokens: int, n_slots: int = N_SLOTS, grows: bool = True) -> KVCache:
    """Return a cache of two layers, of which the second has written nothing."""
    cache = KVCache(2, n_slots, 300, grows)
    cache.begin(n_slots, 0, n_tokens)
    cache.update(numbers(n_slots, n_tokens), -numbers(n_slots, n_tokens), 0)
    return cache


def held(cache: KVCache, end: int) -> Tensor:
    """Return the keys of all columns up to this one, whose values are the same with another sign."""
    [layer, _] = cache.columns
    assert torch.equal(layer.keys, -layer.values)
    return layer.keys[:, :, :end]


@pytest.mark.parametrize("grows", [True, False])
def test_a_pass_over_some_rows_is_written_behind_their_columns_and_leaves_others_alone(grows: bool) -> None:
    cache = filled(5, grows=grows)
    cache.begin(2, 5, 2)
    assert cache.get_seq_length() == 5
    keys, values = cache.update(numbers(2, 2, 1), -numbers(2, 2, 1), 0)
    assert torch.equal(keys, torch.cat([numbers(3, 5)[:2], numbers(2, 2, 1)], 2))
    assert torch.equal(keys, -values)
    assert torch.equal(held(cache, 7)[2], torch.nn.functional.pad(numbers(3, 5)[2], (0, 0, 0, 2)))


def test_a_cache_grows_by_whole_blocks_and_keeps_what_it_has() -> None:
    cache = filled(5)
    assert cache.columns[0].keys.shape[2] == BLOCK_COLUMNS
    cache.begin(N_SLOTS, BLOCK_COLUMNS, 1)
    cache.update(numbers(N_SLOTS, 1), -numbers(N_SLOTS, 1), 0)
    assert cache.columns[0].keys.shape[2] == 2 * BLOCK_COLUMNS
    assert torch.equal(held(cache, 5), numbers(N_SLOTS, 5))


@pytest.mark.parametrize("of_another", [False, True])
def test_copied_rows_leave_nothing_of_what_was_there(of_another: bool) -> None:
    cache = filled(280)
    source = filled(5, 2) if of_another else cache
    for layer in cache.columns[:1]:
        layer.keys[2], layer.values[2] = torch.nan, torch.nan
    cache.hide(0, torch.ones(N_SLOTS, 280, dtype=torch.bool))
    cache.hidden[0][1, :] = False
    cache.copy_rows(source, torch.tensor([1]), torch.tensor([2]))
    [layer, other] = cache.columns
    assert torch.equal(held(cache, 5)[2], held(source, 5)[1])
    assert not layer.keys.isnan().any()
    assert not layer.keys[2, :, held(source, 280).shape[2] :].any()
    assert not cache.hidden[0][2].any()
    assert cache.hidden[0][0].any()
    assert not other.is_initialized


def test_rows_are_not_copied_one_by_one() -> None:
    operators = []
    for n_slots in (1, 7):
        with Card() as card, torch.inference_mode():
            prompt, cache = KVCache(4, 1, 32), KVCache(4, n_slots, 48)
            prompt.begin(1, 0, 20)
            for columns in prompt.columns:
                columns.update(There(torch.zeros(1, 2, 20, 8)), There(torch.zeros(1, 2, 20, 4)))
            slots = There(torch.arange(n_slots))
            with card.counted() as counts:
                cache.copy_rows(prompt, There(torch.zeros(n_slots, dtype=torch.long)), slots)
        operators.append(counts.operators)
    assert 0 < operators[0] == operators[1]


def moved_left(cache: KVCache) -> Tensor:
    cache.move_left(2)
    return numbers(N_SLOTS, 5)[:, :, 2:]


def moved_right(cache: KVCache) -> Tensor:
    """Check the first two slots alone."""
    cache.move_right(torch.tensor([2, 0]), 5)
    before = numbers(N_SLOTS, 5)
    return torch.stack([torch.cat([before[0, :, :1]] * 2 + [before[0, :, :3]], 1), before[1], before[2]])


@pytest.mark.parametrize("move", [moved_left, moved_right])
def test_columns_move_to_where_rows_end(move: Callable[[KVCache], Tensor]) -> None:
    cache = filled(5)
    expected = move(cache)
    assert torch.equal(held(cache, expected.shape[2]), expected)


def test_hidden_tokens_are_those_of_a_pass_and_move_with_its_columns() -> None:
    cache = filled(5)
    cache.begin(2, 5, 2)
    cache.hide(1, torch.tensor([[True, False], [False, True]]))
    assert cache.hidden[1].nonzero().tolist() == [[0, 5], [1, 6]]
    cache.move_left(2)
    assert cache.hidden[1].nonzero().tolist() == [[0, 3], [1, 4]]
    assert 0 not in cache.hidden
