"""Grading: the part of a text that counts as its answer, and whether it is right.

An `answer_pattern` (of the package `regex`, a superset of `re`'s) captures the answer by its first match. The first
non-empty group counts, or else the whole match, as in the regex filters of lm-evaluation-harness. The captured text has
to equal the `answer`, if there is one. With a pattern alone, a text is right if it matches.

Without a pattern, the last answer to which the text commits itself counts.

1. The text ends at a question that it poses itself. Other questions and repetitions of the prompt are ignored.
2. Candidates have the type of the expected answer: numbers, letters or choices, options of the prompt, or the expected
   words themselves (`eexit.quality.answer_types`).
3. Excluded are answers that the text denies ("not 7", "7 is wrong"), leaves open ("7 or 8"), or corrects ("7… wait,
   8"). So are asides ("8 (about 7)", "8, because 7 …") and statements about another subject of the prompt's passage.
   Numbers of a calculation ("3 + 4") are excluded, and the prompt's numbers in a sentence with other numbers.
4. Of the rest, the last one counts that is called the answer ("the answer is 7", "\\boxed{7}") or stands by itself.
   Failing that, the last one about the question's subject counts ("6 × 7 = 42" if the prompt has 6 × 7). Otherwise the
   last one counts.

Numbers are equal if their values are: 1,000, 1 000 and 1000.0; 0,5, 50 % and 0.5; minus 7 and −7; 1 million and
1,000,000; $5 and 5. Other answers are compared word by word, as in SQuAD's metrics (Rajpurkar et al. 2016). Case,
articles, possessive 's, hyphens, Markdown and the punctuation around words are ignored.
"""

from dataclasses import dataclass
from typing import Final

import regex

from eexit.plan.sweep_config import Prompt
from eexit.quality.answer_types import AnswerType, type_of, words_of
from eexit.quality.committed_text import (
    CLAUSE_END,
    QuestionFocus,
    before_own_question,
    plain,
    sentences,
    to_the_point,
    undenied,
    words,
)
from eexit.quality.numerals import (
    digits_for_words,
    number_of,
    results,
    share_of,
    without_calculations,
    without_cut_off,
    without_given,
)

PATTERN_SECONDS: Final = 10.0  # CPU time of this process that a pattern may take for a text, measured by `regex`
LONGEST: Final = 10_000  # characters; of a longer text, the last ones are graded

_CALLED: Final = (  # as in eexit.quality.numerals, repetitions are bounded or possessive
    r"(?:\b(?i:answers?|solution|result|total|conclusion)\b|答案)(?:\W{1,4}(?i:is|be|are|was|will|would|should|must|to|of|this|"
    r"that|the|question|problem|final|correct|right|best|therefore|thus|clearly|definitely|likely|probably|actually|about|"
    r"approximately|exactly|equals|option|choice|letter|number|indeed)\b){0,6}[^\w.]{0,6}?"
)
# An answer stands by itself if a line begins with it, and at most a unit separates it from a punctuation mark.
_BEGINS: Final = r"(?:\A|(?<=\n))[^\w\n]{0,4}?"
_ENDS: Final = (
    r"(?=[\"')\]]{0,2}(?:[^\S\n]{1,3}(?!(?i:is|was|are|has|and|or)\b)[^\W\d]\w{0,15})?"
    r"(?:[.:;!(\n]|,(?!\s?\d)|[^\S\n]*\Z))"
)


class SlowPatternError(Exception):
    """Error for a pattern that takes more than `PATTERN_SECONDS` of CPU time for a text."""


@dataclass(frozen=True)
class Grade:
    """Grade of a text: `found` is its answer or None; `correct` is None if the prompt has no expected answer."""

    found: str | None = None
    correct: bool | None = None

    @property
    def columns(self) -> dict[str, str | bool | None]:
        return {"found_answer": self.found, "correct": self.correct}


def grade(prompt: Prompt, text: str | None) -> Grade:
    """Grade a text; None, whose thinking never closed, is wrong. Raises `SlowPatternError`."""
    if text is None:
        return Grade(None, False if prompt.answer or prompt.answer_pattern else None)
    if prompt.answer_pattern is not None:
        found = _captured(prompt.answer_pattern, text)
        return Grade(found, found is not None and (prompt.answer is None or is_same(found, prompt.answer)))
    if prompt.answer is None:
        return Grade()
    kind = type_of(prompt.prompt, prompt.answer)
    found = _last_said(prompt, kind, before_own_question(plain(prompt.prompt, text[-LONGEST:]), kind))
    return Grade(found, found is not None and is_same(found, prompt.answer))


def is_same(one: str, other: str) -> bool:
    """Return True if two answers are the same number or, if not both are numbers, the same words."""
    numbers = [number_of(one), number_of(other)]
    if None in numbers:
        return ([*words_of(one)] or one.strip()) == ([*words_of(other)] or other.strip())
    if ("%" in one) != ("%" in other):
        return numbers[0] == numbers[1] or share_of(one) == share_of(other)
    return numbers[0] == numbers[1]


def first_match(pattern: str, text: str, name: str) -> regex.Match[str] | None:
    """Return the first match of a pattern, which messages call `name`. Raises `SlowPatternError`."""
    try:
        return regex.search(pattern, text, timeout=PATTERN_SECONDS)
    except TimeoutError as error:
        raise SlowPatternError(
            f"{name} {pattern!r} takes more than {PATTERN_SECONDS:g} s of CPU time on this run's text: make it simpler"
        ) from error


def _captured(pattern: str, text: str) -> str | None:
    match = first_match(pattern, text, "answer_pattern")
    if match is None:
        return None
    found: str = next((group for group in match.groups() if group), match[0])
    return found.strip()


def _last_said(prompt: Prompt, kind: AnswerType, text: str) -> str | None:
    """Return the last answer to which a text commits itself: called so or alone, else about the subject, else any."""
    subject, is_number = QuestionFocus.from_prompt(prompt.prompt), number_of(prompt.answer or "") is not None
    text = undenied(digits_for_words(text) if is_number else text, kind)
    asked = results(prompt.prompt, text) if is_number else []
    text = to_the_point(without_calculations(text) if is_number else text, kind, subject)
    if is_number:
        text = without_cut_off(
            "".join(without_given(prompt.prompt, prompt.answer or "", each) for each in sentences(text))
        )
    else:
        clauses = [each for each in CLAUSE_END.split(text) if words(each) & subject.asked]
        asked = [said for each in clauses for said in _all(kind.pattern, each)]
    called = _all(f"(?:{_CALLED})(?P<said>{kind.pattern})|{_BEGINS}(?P<said>{kind.pattern}){_ENDS}", text)
    said = called or asked or _all(kind.pattern, text)
    return kind.stands_for(said[-1]) or None if said else None


def _all(pattern: str, text: str) -> list[str]:
    return [match.groupdict().get("said") or match[0] for match in regex.finditer(pattern, text)]
