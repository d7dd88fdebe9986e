"""The parts of a text: its chain of thought (`thinking`) and its `answer`. A text without marks is all answer.

Marks open and close a chain, as <think> and </think> do, and belong to it. Or a pattern says until where a text thinks,
as (?i)answer: does: its first match begins the answer. A chain that never closes leaves no answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import regex

from eexit.quality.answers import first_match

THINKING: Final = "thinking"
ANSWER: Final = "answer"
PARTS: Final = (THINKING, ANSWER)
# What opens and closes a chain of thought, in the chat templates and vocabularies of models that think.
THINKING_MARKS: Final = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"), ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)  # fmt: skip


@dataclass(frozen=True)
class Chains:
    """Where a text thinks, from which of its characters to which; `closed` is None if it never thought."""

    spans: Sequence[tuple[int, int]]
    closed: bool | None

    def answer(self, text: str) -> str | None:
        """What the text answers; None if its chain never closes."""
        if self.closed is False:
            return None
        starts, ends = [0, *(end for _, end in self.spans)], [*(start for start, _ in self.spans), len(text)]
        return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))

    def parts(self, pieces: Sequence[str]) -> list[str]:
        """The part of each token, given their texts: the one that its first character is in."""
        starts = [0, *accumulate(map(len, pieces))][: len(pieces)]
        return [THINKING if any(start <= at < end for start, end in self.spans) else ANSWER for at in starts]


@dataclass(frozen=True)
class Marks:
    """What opens and closes a chain."""

    opening: str
    closing: str

    def chains(self, before: str, text: str) -> Chains:
        """Where the text thinks, after what it goes on with: the end of the chat template and a prefiller."""
        whole, opened = before + text, None
        spans: list[tuple[int, int]] = []
        for mark in regex.finditer(f"{regex.escape(self.opening)}|{regex.escape(self.closing)}", whole):
            if mark[0] == self.opening:
                opened = mark.start() if opened is None else opened
            elif opened is not None or not spans:  # what closes first closes what was opened out of sight
                spans.append((opened or 0, mark.end()))
                opened = None
        if opened is not None:
            spans.append((opened, len(whole) + 1))  # with a token that ends the text there
        return Chains([*_within(spans, len(before))], opened is None if spans else None)


@dataclass(frozen=True)
class Until:
    """A pattern of the package `regex` that begins the answer."""

    pattern: str

    def chains(self, before: str, text: str) -> Chains:
        """Where the text thinks, after a prefiller. Raises `SlowPatternError`."""
        match = first_match(self.pattern, before + text, "thinking_until")
        end = match.start() if match else len(before) + len(text) + 1
        return Chains([*_within([(0, end)], len(before))], match is not None)


def _within(spans: Sequence[tuple[int, int]], start: int) -> Iterator[tuple[int, int]]:
    """What of the spans lies from `start` on, counted from there."""
    yield from ((max(0, first - start), last - start) for first, last in spans if last > start)
