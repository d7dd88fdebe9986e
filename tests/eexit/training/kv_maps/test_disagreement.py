"""Texts that are scored with KV maps go through the layers side by side."""

import pytest

from eexit.model.cache import BLOCK_COLUMNS
from eexit.training.kv_maps import disagreement
from eexit.training.kv_maps.disagreement import side_by_side
from eexit.training.texts import TrainingText


def test_texts_go_through_the_layers_together_within_a_bound_on_their_cache_prompts_included(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disagreement, "ROOM_COLUMNS", 4 * BLOCK_COLUMNS)
    sizes = [(3, 9), (300, 9), (3, 1), (2000, 4), (3, 30), (3, 9), (300, 9)]  # prompt, answer; one decides nothing
    texts = [TrainingText(str(n), (n,) * prompt, (1,) * answer) for n, (prompt, answer) in enumerate(sizes)]
    together = [[text.prompt_id for text in block] for block in side_by_side(texts)]
    assert together == [["0", "4", "5"], ["1", "6"], ["3"]]
