"""Splits and samples of prompts by a hash of their text, which are the same in every sweep and on every machine."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

ONE_IN: Final = 4  # prompts is for reporting
SAMPLE: Final = "representative"
_SORTED_ID: Final = re.compile(r"(.+)[-_:/.]\d+")


def for_reporting(prompt: str) -> bool:
    """Whether what is reported of a chosen setting is measured on this prompt: one in four. The others choose it."""
    return is_drawn(prompt, "reporting", ONE_IN)


def is_drawn(prompt: str, salt: str, one_in: int) -> bool:
    """Whether a prompt is one of the one in so many; each salt gives another split, independent of the others."""
    return _hash(prompt, salt) % one_in == 0


def sort_of(prompt_id: str) -> str:
    """What sort of prompt it is, by its id: `fact` of `fact-30`; empty for an id without a sort, such as `30`."""
    found = _SORTED_ID.fullmatch(prompt_id)
    return found[1] if found else ""


def representative(prompts: Mapping[str, str], n: int) -> list[str]:
    """The ids of n prompts, given as id → text, in their order: a sample with each sort's share of them (`sort_of`).

    A hash of the text draws them. Sorts take turns as seats are given to parties by Sainte-Laguë's method, so that a
    larger sample contains every smaller one, and no sort comes a second time before a sort of more than a third of its
    size has come once.
    """
    by_sort: dict[str, list[str]] = defaultdict(list)
    for prompt_id in sorted(prompts, key=lambda prompt_id: (_hash(prompts[prompt_id], SAMPLE), prompt_id)):
        by_sort[sort_of(prompt_id)].append(prompt_id)
    turns = [
        ((index + 0.5) / len(ids), _hash(prompts[prompt_id], SAMPLE), prompt_id)
        for ids in by_sort.values()
        for index, prompt_id in enumerate(ids)
    ]
    drawn = {prompt_id for *_, prompt_id in sorted(turns)[:n]}
    return [prompt_id for prompt_id in prompts if prompt_id in drawn]


def _hash(prompt: str, salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8, key=salt.encode()).digest())
