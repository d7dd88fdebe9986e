"""Texts of tokens: they concatenate to the text of a run."""

from eexit import load_default_model_and_tokenizer
from eexit.results.shard_tables import token_pieces

TEXTS = ["Straße 👩‍👩‍👧 naïve 日本語 \u202eabc\u202c", "```python\n\tdef f():\r\n```", "\ufffd�", " lead  and trail  "]


def test_pieces_concatenate_to_the_text_and_keep_characters_whole() -> None:
    _, tokenizer = load_default_model_and_tokenizer()
    for text in TEXTS:
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = token_pieces(tokenizer, token_ids)
        assert len(pieces) == len(token_ids)
        assert "".join(pieces) == text
        assert any("\ufffd" in piece for piece in pieces) <= ("\ufffd" in text)
