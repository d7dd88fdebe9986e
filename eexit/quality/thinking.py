"""Parts of a text: its chain of thought (`thinking`) and its `answer`. A text without tags is all answer.

Tags such as <think> and </think> open and close the thinking, and belong to it. Alternatively, the first match of a
pattern such as (?i)answer: begins the answer. Thinking that never closes leaves no answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import regex

from eexit.quality.grading import first_match

THINKING: Final = "thinking"
ANSWER: Final = "answer"
PARTS: Final = (THINKING, ANSWER)
# Tags that open and close the thinking in chat templates and vocabularies.
THINKING_MARKS: Final = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"), ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)  # fmt: skip


@dataclass(frozen=True)
class ThinkingSpans:
    """Spans of thinking in a text, from character to character; `closed` is None for a text without thinking."""

    spans: Sequence[tuple[int, int]]
    closed: bool | None

    def answer(self, text: str) -> str | None:
        """Return the answer in the text; None if its thinking never closes."""
        if self.closed is False:
            return None
        starts, ends = [0, *(end for _, end in self.spans)], [*(start for start, _ in self.spans), len(text)]
        return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))

    def parts(self, pieces: Sequence[str]) -> list[str]:
        """Return "thinking" or "answer" for each token, by its first character; `pieces` are the tokens' texts."""
        starts = [0, *accumulate(map(len, pieces))][: len(pieces)]
        return [THINKING if any(start <= at < end for start, end in self.spans) else ANSWER for at in starts]


@dataclass(frozen=True)
class ThinkingTags:
    """Tags that open and close the thinking."""

    opening: str
    closing: str

    def chains(self, before: str, text: str) -> ThinkingSpans:
        """Return the thinking of a text, given the text before it: the end of the chat template and a prefiller."""
        whole, opened = before + text, None
        spans: list[tuple[int, int]] = []
        for mark in regex.finditer(f"{regex.escape(self.opening)}|{regex.escape(self.closing)}", whole):
            if mark[0] == self.opening:
                opened = mark.start() if opened is None else opened
            elif opened is not None or not spans:  # a first closing tag ends thinking that began before the text
                spans.append((opened or 0, mark.end()))
                opened = None
        if opened is not None:
            spans.append((opened, len(whole) + 1))  # includes an end token there
        return ThinkingSpans([*_within(spans, len(before))], opened is None if spans else None)


@dataclass(frozen=True)
class AnswerPattern:
    """Pattern of the package `regex` that begins the answer."""

    pattern: str

    def chains(self, before: str, text: str) -> ThinkingSpans:
        """Return the thinking of a text after a prefiller. Raises `SlowPatternError`."""
        match = first_match(self.pattern, before + text, "thinking_until")
        end = match.start() if match else len(before) + len(text) + 1
        return ThinkingSpans([*_within([(0, end)], len(before))], match is not None)


def _within(spans: Sequence[tuple[int, int]], start: int) -> Iterator[tuple[int, int]]:
    """Yield the spans from `start` on, relative to it."""
    yield from ((max(0, first - start), last - start) for first, last in spans if last > start)
