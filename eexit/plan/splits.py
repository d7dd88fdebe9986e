"""Splits and samples of prompts by a hash of their text, the same in every sweep and on every machine."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

ONE_IN: Final = 4  # one prompt in this many is in the test split
SAMPLE: Final = "representative"
_SORTED_ID: Final = re.compile(r"(.+)[-_:/.]\d+")


def in_test_split(unit: str) -> bool:
    """Return True if this group is in the test split, which reports a selected setting: one in four.

    `unit` is the name of a prompt's group or, without one, the prompt's text. So a whole group is in one split.
    """
    return is_drawn(unit, "reporting", ONE_IN)


def in_pilot_split(unit: str) -> bool:
    """Return True if this group is in the pilot split, which orders settings: one in four outside the test split."""
    return not in_test_split(unit) and is_drawn(unit, "pilot", ONE_IN)


def groups(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return prompt id → group, for prompts that name one (`group`).

    Prompts of a group depend on each other, and carry less information than independent ones. So a group counts once.
    """
    return {prompt["id"]: f"group {prompt['group']}" for prompt in prompts if prompt.get("group")}


def sampling_units(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return prompt id → sampling unit: the prompt's group or, if it names none, its text."""
    prompts = list(prompts)
    return {prompt["id"]: prompt["prompt"] for prompt in prompts} | groups(prompts)


def kinds(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return prompt id → kind: the prompt's `kind`, or else that of its id; prompts without either are left out."""
    known = ((prompt["id"], prompt.get("kind") or sort_of(prompt["id"])) for prompt in prompts)
    return {prompt_id: kind for prompt_id, kind in known if kind}


def shuffled(units: Sequence[str]) -> list[int]:
    """Return the indices of sampling units in an order that depends only on their texts."""
    return sorted(range(len(units)), key=lambda index: _hash(units[index], "order"))


def unit_digest(unit: str) -> int:
    """Return a 64-bit digest of a sampling unit, as a short name for it."""
    return _hash(unit, "unit")


def is_drawn(prompt: str, salt: str, one_in: int) -> bool:
    """Return True if a prompt is among the one in `one_in` that are drawn; each salt gives an independent split."""
    return _hash(prompt, salt) % one_in == 0


def sort_of(prompt_id: str) -> str:
    """Return the kind of a prompt by its id: `loss` for `loss-17`; empty for an id without a kind, such as `30`."""
    found = _SORTED_ID.fullmatch(prompt_id)
    return found[1] if found else ""


def representative(prompts: Mapping[str, str], n: int) -> list[str]:
    """Return the ids of n prompts, given as id → text, in their order: a sample with each kind's share (`sort_of`).

    A hash of the text draws the prompts. Kinds take turns as parties get seats by Sainte-Laguë's method. So a larger
    sample contains every smaller one. No kind comes a second time before each kind of more than a third of its size has
    come once.
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


@lru_cache(maxsize=2**16)
def _hash(prompt: str, salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8, key=salt.encode()).digest())
