"""Slots of a KV cache that other sequences get; what passes write is compared with the reference in `decode`."""

import torch

from eexit.model.cache import KVCache


def test_copied_rows_leave_nothing_of_what_was_behind_them() -> None:
    cache, source = KVCache(1, 2, 300), KVCache(1, 1, 300)
    for each, n_tokens, number in ((cache, 280, torch.nan), (source, 5, 1.0)):
        each.begin(each.n_slots, 0, n_tokens)
        each.update(*torch.full((2, each.n_slots, 2, n_tokens, 4), number), 0)
    cache.copy_rows(source, torch.tensor([0]), torch.tensor([1]))
    [layer] = cache.columns
    for part in (layer.keys, layer.values):
        assert (part[1, :, :5] == 1).all()
        assert not part[1, :, 5:].any()
        assert part[0, :, :280].isnan().all()
