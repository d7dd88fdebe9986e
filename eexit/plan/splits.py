"""Splits and samples of prompts by a hash of their text, which are the same in every sweep and on every machine."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

ONE_IN: Final = 4  # prompts is for reporting
SAMPLE: Final = "representative"
_SORTED_ID: Final = re.compile(r"(.+)[-_:/.]\d+")


def for_reporting(unit: str) -> bool:
    """Whether what is reported of a chosen setting is measured on this prompt: one in four. The others choose it.

    A unit is a prompt's text or, where prompts name a group, that: all prompts of a group are on the same side.
    """
    return is_drawn(unit, "reporting", ONE_IN)


def for_pilot(unit: str) -> bool:
    """Whether this prompt says in which order settings are tested: one in four of those that are not for reporting."""
    return not for_reporting(unit) and is_drawn(unit, "pilot", ONE_IN)


def groups(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """prompt id → the group that it is one of, for prompts that name one (`group`).

    Prompts of a group depend on each other, so that they say less than as many independent ones: a group counts once.
    """
    return {prompt["id"]: f"group {prompt['group']}" for prompt in prompts if prompt.get("group")}


def units(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """prompt id → what is counted as one: the prompt's group or, if it names none, its text."""
    prompts = list(prompts)
    return {prompt["id"]: prompt["prompt"] for prompt in prompts} | groups(prompts)


def kinds(prompts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """prompt id → what kind of prompt it is: what it names (`kind`) or else what its id says; none if neither does."""
    known = ((prompt["id"], prompt.get("kind") or sort_of(prompt["id"])) for prompt in prompts)
    return {prompt_id: kind for prompt_id, kind in known if kind}


def shuffled(units: Sequence[str]) -> list[int]:
    """The indices of units in an order that depends on nothing but their texts."""
    return sorted(range(len(units)), key=lambda index: _hash(units[index], "order"))


def digest(unit: str) -> int:
    """A number of 64 bits that stands for a unit, where its text would take too much room."""
    return _hash(unit, "unit")


def is_drawn(prompt: str, salt: str, one_in: int) -> bool:
    """Whether a prompt is one of the one in so many; each salt gives another split, independent of the others."""
    return _hash(prompt, salt) % one_in == 0


def sort_of(prompt_id: str) -> str:
    """What sort of prompt it is, by its id: `loss` of `loss-17`; empty for an id without a sort, such as `30`."""
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


@lru_cache(maxsize=2**16)
def _hash(prompt: str, salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8, key=salt.encode()).digest())
