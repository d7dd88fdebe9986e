"""Splits of prompts by a hash of their text: a prompt is on the same side in every sweep and on every machine."""

import hashlib
from typing import Final

ONE_IN: Final = 4  # prompts is for reporting


def for_reporting(prompt: str) -> bool:
    """Whether what is reported of a chosen setting is measured on this prompt: one in four. The others choose it."""
    return is_drawn(prompt, "reporting", ONE_IN)


def is_drawn(prompt: str, salt: str, one_in: int) -> bool:
    """Whether a prompt is one of the one in so many; each salt gives another split, independent of the others."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8, key=salt.encode()).digest()
    return int.from_bytes(digest) % one_in == 0
