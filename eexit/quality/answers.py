"""What of a text counts as its answer, and whether it is right.

With an `answer_pattern` (of the package `regex`, a superset of `re`'s), the answer is what its first match captures:
the first group that is not empty, or else all of the match, as in the regex filters of lm-evaluation-harness. With an
`answer` beside it, that has to be the same; a pattern alone says that a text is right if it matches.

Without a pattern, places where the text repeats the prompt, or the question that ends it, word for word do not count.
The rest depends on the answer that is expected:

- A number: the last number that the text calls the answer ("the answer is 7", "#### 7", "\\boxed{7}"); else the last
  that it gives for a calculation of the prompt ("6 × 7 = 42"); else its last number, as in the flexible extraction of
  the harness's GSM8K. No answers are the numbers of a calculation ("3 + 4"), a fraction or a range, of a list's items
  or a time ("12:30", "12h30"), exponents, ordinals ("7th") and what follows "not".
- A letter, where the prompt has choices ("A) Paris B) Rome"): the letter that the text last calls the answer ("the
  answer is B", "it is (B)"); else the only letter that it gives, or the one it begins with; else the choice whose words
  are the only ones in the text. No answers are a letter that is denied ("not A", "A is wrong"), one of two ("A or B"),
  the article ("A CHAIR"), "A:" for "Answer:", the letters of a list of the choices, and a letter with another choice's
  words ("(B) Paris").
- Anything else: right if its words are in the text, one after the other, and not denied there ("not Rome", "Rome is
  wrong"). The answer "A" is right where the letter stands alone and is no article.

Numbers are the same if their values are: 1,000, 1 000 and 1000.0, 0,5 and 0.5, minus 7 and −7, 1 million and 1,000,000,
and $5, 5 % and 5. One comma before three digits separates thousands; a single point is a decimal point. Other answers
are compared word by word, without case, articles, possessive 's, hyphens, Markdown and the punctuation around words, as
SQuAD's metrics do (Rajpurkar et al. 2016).

Numbers and letters err on the side of wrong: number words are not read ("seven"), and of two letters none is taken.
Words err on the side of right: it is enough that they are there, so that "Rome or Milan" has the answer Rome. A pattern
can be as strict or as generous as its question needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from unicodedata import normalize

import regex

from eexit.plan.config import Prompt
from eexit.quality.numerals import NUMBER, number_of, results, without_calculations, without_denials

PATTERN_SECONDS: Final = 10.0  # of CPU time of this process, which `regex` measures, that a pattern may take for a text

# As in eexit.quality.numerals, repetitions are bounded or possessive.
_FILLERS = (
    "is|be|are|was|will|would|should|must|to|of|this|that|the|question|problem|final|correct|right|best|therefore|thus|"
    "clearly|definitely|likely|probably|actually|about|approximately|exactly|equals|option|choice|letter|number|boxed|text"
)
_THEN = rf"(?:\W{{1,4}}(?i:{_FILLERS})\b){{0,6}}[^\w.]{{0,6}}?"
_IT_IS = r"(?i:it|this|that|choice|option|letter|one)\W{1,2}(?i:is|s)"
_ANSWER = r"(?:\b(?i:answer)\b|\\boxed\b)"
_EMPHASIS = regex.compile(r"(?<![\w)])[*_`]+(?=\S)|(?<=\S)[*_`]+(?![\w(])")
_CHOICE = regex.compile(r"(?<!\w)[(\[]?([A-Z])[).\]:]\s")
_BETWEEN_CHOICES = regex.compile(r"(?:[\s,;.?]|\bor\b|\band\b)+$")
_DENIALS = frozenset({"not", "never", "nor", "neither", "cannot"})
_BEFORE_PLACES = frozenset({"in", "on", "at", "by", "from", "of", "to", "called", "be"})
_ARTICLES = frozenset({"a", "an", "the"})
_AROUND_WORDS = ".,;:!?\"'()[]{}*_`“”‘’„«»…"

Word = tuple[str, str, str]  # without what is around it, what is compared of it, and as it is written


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
        found = _by_default(prompt.prompt, prompt.answer or "", _without_echo(prompt.prompt, text))
    return Mark(found, found is not None and (prompt.answer is None or is_same(found, prompt.answer)))


def is_same(one: str, other: str) -> bool:
    """Whether two answers are the same number or, if not both are numbers, the same words."""
    numbers = [number_of(answer) for answer in (one, other)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _compared(one) == _compared(other)


def choices_of(prompt: str) -> dict[str, str]:
    """The choices that a prompt offers, letter → words: "A) Paris", "(B) Rome", "C. Berlin"; one alone is none."""
    marks = _choice_marks(prompt)
    if len(marks) < 2:
        return {}
    ends = [*(match.start() for match in marks[1:]), len(prompt)]
    texts = (prompt[match.end() : end].split("\n")[0] for match, end in zip(marks, ends, strict=True))
    return {match[1]: _BETWEEN_CHOICES.sub("", text) for match, text in zip(marks, texts, strict=True)}


def _choice_marks(text: str) -> list[Any]:
    marks: list[Any] = []
    for match in _CHOICE.finditer(text):
        if match[1] == chr(ord("A") + len(marks)):
            marks.append(match)
    return marks


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


def _without_echo(prompt: str, text: str) -> str:
    """The text without repetitions of the prompt, and of its last line if that is a question."""
    *_, last = prompt.strip().rsplit("\n", 1)
    for echo in (prompt.strip(), last.strip() if last.endswith("?") else ""):
        text = text.replace(echo, "\n") if echo else text
    return text


def _by_default(prompt: str, expected: str, text: str) -> str | None:
    if number_of(expected) is not None:
        return _number(prompt, text)
    choices, bare = choices_of(prompt), expected.strip(f"{_AROUND_WORDS} ")
    if choices and bare.upper() in choices:
        return _letter(choices, text)
    if bare.casefold() == "a":
        match = regex.search(_alone("A"), text)
        return match and str(match[1])
    return _words_in(list(_words(text)), expected)


def _number(prompt: str, text: str) -> str | None:
    """The last number called the answer, else the last said to be what the prompt calculates, else the last."""
    text = without_denials(_EMPHASIS.sub("", text))
    given, text = results(prompt, text), without_calculations(text)
    said = [match["said"] for match in regex.finditer(rf"(?:{_ANSWER}|####){_THEN}(?P<said>{NUMBER})", text)]
    numbers = said or given or [match[0] for match in regex.finditer(NUMBER, text)]
    return numbers[-1].strip() if numbers else None


def _alone(letters: str) -> str:
    """A pattern for a letter that stands alone: no article, no pronoun and not denied."""
    return (
        r"(?<!\w)(?<!\w['’]|°)"
        r"(?<!\b(?i:not|nor|neither|never|cannot|except|\w{2,5}n['’]t)\s{1,3}(?:(?i:be|option|choice|letter)\s{1,3})?[(\[\"]{0,2})"
        rf"([{letters}])(?!\w|['’]\w)"
        r"(?!(?<=[AI])[^\S\n]{1,3}(?!(?i:is|was|are|because|since|as|and|or|but)\b)\p{L})"
        r"(?![)\]\"]{0,2}\s{1,3}(?i:is|was)(?:n['’]t|\s{1,3}(?:not|wrong|incorrect|false))\b)"
    )


def _letter(choices: Mapping[str, str], text: str) -> str | None:
    """The letter last called the answer, else the only one or the first, else that of the only choice named."""
    # "A:" may stand for "Answer:"
    answer = r"(?m)^[ \t]{0,3}A:(?![ \t]{0,3}(?i:" + regex.escape(choices["A"]) + "))"
    text = regex.sub(answer, "", _EMPHASIS.sub("", text))
    alone = _alone("".join(choices))
    given = list(regex.finditer(alone, text))
    said = list(regex.finditer(rf"(?:{_ANSWER}|\b{_IT_IS}\b){_THEN}{alone}", text))
    if not given:
        words = list(_words(text))
        named = [letter for letter, said in choices.items() if said and _words_in(words, said) is not None]
        return named[0] if len(named) == 1 else None
    if not said and len(_choice_marks(text)) > 1:
        return None
    first, others = given[0], {match[1] for match in given}
    if not text[: first.start()].strip(f"{_AROUND_WORDS} \n"):  # the text begins with it
        others = {first[1], *(match[1] for match in given if text[match.end() : match.end() + 1] in (")", "]", ":"))}
    if not said and len(others) > 1:
        return None
    chosen = said[-1] if said else first
    # "B or C", "(B) Paris or (C) Berlin"
    if regex.match(
        r"(?:\W{1,4}(?:or|and)\W{1,3}[A-Z]\b|[^.\n]{1,60}?\b(?:or|and)\W{1,3}[A-Z][)\]:])", text, pos=chosen.end()
    ):
        return None
    return None if _belies(choices, chosen[1], text[chosen.end(1) : chosen.end(1) + 200]) else str(chosen[1])


def _belies(choices: Mapping[str, str], letter: str, after: str) -> bool:
    """Whether another choice's words follow a letter, as in "(B) Rome" if B is Paris."""
    words = _compared(regex.sub(r"^[)\]:]{0,2}[^\S\n]{0,3}", "", after) if after[:1] != "." else "")
    begins = {each: words[: len(_compared(said))] == _compared(said) for each, said in choices.items()}
    return any(begins.values()) and not begins[letter]


def _words_in(words: Sequence[Word], expected: str) -> str | None:
    """Those words of a text that are expected, as the text has them; None if they are not in it, or denied."""
    wanted = _compared(expected)
    for start in range(len(words) - len(wanted) + 1):
        end = start + len(wanted)
        if [compared for _, compared, _ in words[start:end]] == wanted and not _denied(words, start, end):
            return " ".join(word for word, _, _ in words[start:end])
    return None


def _denied(words: Sequence[Word], start: int, end: int) -> bool:
    """Whether words stand after "not" or "not in", or before "is not", "isn't" or "is wrong"."""
    before = [written.casefold().strip("*_") for *_, written in words[max(0, start - 2) : start]]
    if before and before[-1] in _BEFORE_PLACES:
        before.pop()
    if before and (before[-1] in _DENIALS or before[-1].endswith("n't")):
        return True
    after = " ".join(compared for _, compared, _ in words[end : end + 3])
    denied = regex.match(r"(?:is|was)(?:n't| (?:not(?! only| just)|wrong|incorrect|false))\b", after)
    return denied is not None and words[end - 1][2][-1] not in ".,;:!?"


def _compared(answer: str) -> list[str]:
    return [compared for _, compared, _ in _words(answer)] or [answer.strip().casefold()]


def _words(text: str) -> Iterator[Word]:
    """The words of a text; articles are left out."""
    text = normalize("NFKC", text).replace("’", "'")
    text = regex.sub(r"(?<=\w)[-‐–−](?=\w)|(?<=\p{L})[/(](?=\p{L})|—|\\[a-z]{1,20}\{|[{}]|(?<=\d)(?=[°%€£])", " ", text)
    for written in text.split():
        bare = written.strip(_AROUND_WORDS)
        if bare and bare.casefold() not in _ARTICLES:
            yield bare, bare.casefold().removesuffix("'s"), written
