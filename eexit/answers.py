"""What of a text counts as its answer, and whether it is right.

With an `answer_pattern` (of the package `regex`, a superset of `re`'s), the answer is what its first match captures:
the first group that is not empty, or else all of the match, as in the regex filters of lm-evaluation-harness. With an
`answer` beside it, that has to be the same; a pattern alone says that a text is right if it matches.

Without a pattern, it depends on the answer that is expected:

- a number: the last number of the text, as in the flexible extraction of the harness's GSM8K;
- a single letter, where the prompt has choices ("A) Paris B) Rome"): the letter that the text gives, or else the choice
  whose words are the only ones in the text;
- anything else: right if its words are in the text, one after the other.

Numbers are the same if their values are: 1,000 is 1000.0, and $5, 5 % and "5." are 5. Other answers are compared word
by word, without case, articles, hyphens, Markdown and the punctuation around words, as SQuAD's metrics do (Rajpurkar et
al. 2016).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from unicodedata import normalize

import regex

from eexit.config import Prompt

PATTERN_SECONDS: Final = 10.0  # of CPU time of this process, which `regex` measures, that a pattern may take for a text

_DIGITS = r"(?<!\w)(?<!\w\.)(?:(?:\d{1,3}(?:[,\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?!\w))?"
_NUMBER = regex.compile(rf"(?:(?<![\w)\]}}])[-−])?(?:[$€£¥]\s?)?(?P<digits>{_DIGITS})")
_WHOLE_NUMBER = regex.compile(rf"\s*{_NUMBER.pattern}\s*[%$€£¥]?\.?\s*")
_CHOICE = regex.compile(r"(?<!\w)[(\[]?([A-Z])[).\]:]\s")
_BETWEEN_CHOICES = regex.compile(r"(?:[\s,;.?]|\bor\b|\band\b)+$")
_ARTICLES = frozenset({"a", "an", "the"})
_AROUND_WORDS = ".,;:!?\"'()[]{}*_`“”‘’„«»…"


class SlowPatternError(Exception):
    """A pattern took more CPU time than `PATTERN_SECONDS` for a text."""


@dataclass(frozen=True)
class Mark:
    """`found` is the text's answer, None if it has none; `correct` is None where nothing says what would be right."""

    found: str | None = None
    correct: bool | None = None

    @property
    def columns(self) -> dict[str, str | bool | None]:
        return {"found_answer": self.found, "correct": self.correct}


def mark(prompt: Prompt, text: str) -> Mark:
    """Mark the text that a prompt led to. Raises `SlowPatternError`."""
    if prompt.answer is None and prompt.answer_pattern is None:
        return Mark()
    if prompt.answer_pattern is not None:
        found = _captured(prompt.answer_pattern, text)
    else:
        found = _by_default(prompt, prompt.answer or "", text)
    return Mark(found, found is not None and (prompt.answer is None or is_same(found, prompt.answer)))


def is_same(one: str, other: str) -> bool:
    """Whether two answers are the same number or, if not both are numbers, the same words."""
    numbers = [number_of(answer) for answer in (one, other)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _compared(one) == _compared(other)


def number_of(answer: str) -> Decimal | None:
    """The value of an answer that is a number and nothing else."""
    match = _WHOLE_NUMBER.fullmatch(answer)
    return match and _value(match)


def _value(match: Any) -> Decimal:
    value = Decimal(regex.sub(r"[,\u2009\u202f]", "", match["digits"]))
    return -value if match[0].lstrip()[:1] in ("-", "−") else value


def _captured(pattern: str, text: str) -> str | None:
    try:
        match = regex.search(pattern, text, timeout=PATTERN_SECONDS)
    except TimeoutError as error:
        raise SlowPatternError(
            f"answer_pattern {pattern!r} takes more than {PATTERN_SECONDS:g} s of CPU time on this run's text: "
            "make it simpler"
        ) from error
    if match is None:
        return None
    found: str = next((group for group in match.groups() if group), match[0])
    return found.strip()


def _by_default(prompt: Prompt, expected: str, text: str) -> str | None:
    if number_of(expected) is not None:
        numbers = [match[0] for match in _NUMBER.finditer(text)]
        return numbers[-1] if numbers else None
    choices = choices_of(prompt.prompt)
    if choices and expected.strip(f"{_AROUND_WORDS} ").upper() in choices:
        return _letter(choices, text)
    return _words_in(text, expected)


def choices_of(prompt: str) -> dict[str, str]:
    """The choices that a prompt offers, letter → words: "A) Paris", "(B) Rome", "C. Berlin"; one alone is none."""
    marks: list[Any] = []
    for match in _CHOICE.finditer(prompt):
        if match[1] == chr(ord("A") + len(marks)):
            marks.append(match)
    if len(marks) < 2:
        return {}
    ends = [*(match.start() for match in marks[1:]), len(prompt)]
    texts = (prompt[match.end() : end].split("\n")[0] for match, end in zip(marks, ends, strict=True))
    return {match[1]: _BETWEEN_CHOICES.sub("", text) for match, text in zip(marks, texts, strict=True)}


def _letter(choices: Mapping[str, str], text: str) -> str | None:
    """The letter after the last "answer is", else the first that stands alone, else that of the only choice named."""
    # "A" and "I" before a word in lower case are an article and a pronoun.
    alone = rf"(?<![\w'’°])([{''.join(choices)}])(?![\w'’])(?!(?<=[AI])\s+(?!is\b|because\b)\p{{Ll}})"
    said = (
        regex.findall(rf"(?i:\banswer)\W+(?i:(?:is|be)\W+)?(?i:(?:option|choice|letter)\W+)?{alone}", text)
        or regex.findall(alone, text)[:1]
    )
    if said:
        return str(said[-1])
    named = [letter for letter, words in choices.items() if words and _words_in(text, words) is not None]
    return named[0] if len(named) == 1 else None


def _words_in(text: str, expected: str) -> str | None:
    """The words of the text that are those expected, as the text has them; None if they are not in it."""
    words, wanted = list(_words(text)), _compared(expected)
    for start in range(len(words) - len(wanted) + 1):
        part = words[start : start + len(wanted)]
        if [compared for _, compared in part] == wanted:
            return " ".join(word for word, _ in part)
    return None


def _compared(answer: str) -> list[str]:
    return [compared for _, compared in _words(answer)] or [answer.strip().casefold()]


def _words(text: str) -> Iterator[tuple[str, str]]:
    """The words of a text and what is compared of them; articles are left out."""
    text = regex.sub(r"(?<=\p{L})[-‐‑–](?=\p{L})|—", " ", normalize("NFKC", text).replace("’", "'"))
    for word in text.split():
        bare = word.strip(_AROUND_WORDS)
        if bare and bare.casefold() not in _ARTICLES:
            yield bare, bare.casefold()
