"""Texts of tokens: they concatenate to the text of a run."""

from typing import Any

import pytest

from eexit import load_default_model_and_tokenizer
from eexit.results.shard_tables import token_pieces


@pytest.fixture(scope="module")
def default_tokenizer() -> Any:
    return load_default_model_and_tokenizer()[1]


@pytest.mark.parametrize(
    "text",
    ["Straße 👩‍👩‍👧 naïve 日本語 \u202eabc\u202c", "```python\n\tdef f():\r\n```", "\ufffd�", " lead  and trail  "],
)
def test_pieces_concatenate_to_the_text_and_keep_characters_whole(default_tokenizer: Any, text: str) -> None:
    token_ids = default_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(default_tokenizer, token_ids)
    assert len(pieces) == len(token_ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
