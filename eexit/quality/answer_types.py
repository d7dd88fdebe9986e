"""Patterns for answers of each type in a text: a number, a letter, one of several options, words.

The type follows from the expected answer and the prompt, which may offer choices ("A) Rome B) Paris") or options
("Rome, Paris or Milan?"). Repetitions are bounded or possessive, as in `eexit.quality.numerals`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import regex

from eexit.quality.numerals import NUMBER, number_of

_AROUND_WORDS: Final = ".,;:!?\"'()[]{}*_`«»°#$%€£ "
_ARTICLES: Final = frozenset({"a", "an", "the"})
_PAIRS: Final = (("yes", "no"), ("true", "false"), ("correct", "incorrect"))
_CHOICE: Final = regex.compile(r"(?<!\w)[(\[]?([A-Z])[).\]:]\s")
_BETWEEN_WORDS: Final = regex.compile(r"\s+|(?<=\w)[-‐–−](?=\w)")
_LISTED: Final = regex.compile(r"(?:[^,:;.?!\n]{1,40}, ){0,9}[^,:;.?!\n]{1,40},? or [^,:;.?!\n]{1,40}")
_NO_ARTICLE: Final = r"(?!(?<=[AI])[^\S\n]{1,3}(?!(?:is|was|are|because|since|as|and|or|but)\b)\p{L})"
_ALONE: Final = (
    rf"(?<![\w°]|\w['-])(?:[A-Z]{_NO_ARTICLE}(?!['-]?\w)"
    r"|(?:(?<=[\"'(]|\bis )|(?<![^\n]))[b-hj-z](?![^\"').\n]))"
)  # fmt: skip
_OR: Final = r",?\s+or\s+(?:(?:an?|the)\s)?"
_AND_OR: Final = r"\s*(?:[,;/-]\s*)?(?:\b(?:or|and)\s+)?(?:(?:an?|the)\s)?[\"']?"


@dataclass(frozen=True)
class AnswerType:
    """Type of answers that match `pattern`; `stands_for` maps a match to the text that is compared with the answer."""

    pattern: str
    stands_for: Callable[[str], str]
    rival: str  # pattern of another answer beside one
    between: str = _AND_OR  # pattern between two answers of which neither counts

    def without_alternatives(self, text: str) -> str:
        """Return the text without lists of alternative answers, such as "A, B or C"."""
        before, after = f"(?:{self.rival}{self.between}){{1,20}}+", f"(?:{self.between}{self.rival}){{1,20}}"
        return str(regex.sub(f"{before}{self.pattern}|{self.pattern}{after}", self._open, text))

    def _open(self, match: regex.Match[str]) -> str:
        said = {self.stands_for(each[0]) for each in regex.finditer(self.rival, match[0])}
        return " " if len(said) > 1 else match[0]


def type_of(prompt: str, expected: str) -> AnswerType:
    """Return the type of the expected answer."""
    if number_of(expected) is not None:
        number = rf"(?:{NUMBER}(?:\s?%)?)"
        return AnswerType(number, str.strip, number, _OR)
    bare, choices = expected.strip(_AROUND_WORDS), choices_of(prompt)
    if bare.upper() in choices:
        return _choice(choices)
    if len(bare) == 1 and bare.isalpha():
        return AnswerType(_ALONE, str, _ALONE)
    if options := options_of(prompt, bare):
        return _options(options)
    return AnswerType(
        worded(expected), lambda said: expected if regex.fullmatch(worded(expected), said) else said, r"\w\S{0,40}", _OR
    )


def choices_of(prompt: str) -> dict[str, str]:
    """Return the choices that a prompt offers, letter → words: "A) Paris", "(B) Rome", "C. Berlin"; at least two."""
    marks: list[regex.Match[str]] = []
    for match in _CHOICE.finditer(prompt):
        if match[1] == chr(ord("A") + len(marks)):
            marks.append(match)
    if len(marks) < 2:
        return {}
    ends = [*(match.start() for match in marks[1:]), len(prompt)]
    texts = (regex.split(r"[?\n]", prompt[match.end() : end])[0] for match, end in zip(marks, ends, strict=True))
    return {
        match[1]: regex.sub(r"(?:[\s,;.?]|\bor\b|\band\b)+$", "", text)
        for match, text in zip(marks, texts, strict=True)
    }


def options_of(prompt: str, expected: str) -> Sequence[str]:
    """Return the options that a prompt offers if the expected answer is one: "Rome, Paris or Milan", or yes and no."""
    for pair in _PAIRS:
        if expected.casefold() in pair:
            return pair
    for listed in _LISTED.finditer(prompt):
        *most, last = (item.strip(_AROUND_WORDS) for item in regex.split(r",? or |, ", listed[0]))
        if prompt[: listed.start()].rstrip()[-1:] != ":":  # "Is it in Rome, Paris or Milan"
            most[0] = " ".join(most[0].split()[-len(last.split()) :]).strip(_AROUND_WORDS)
        options = [*most, last]
        if expected.casefold() in map(str.casefold, options):
            return options
    return ()


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text for comparison, without case, articles, possessive 's and punctuation around them."""
    for written in _BETWEEN_WORDS.split(text.replace("’", "'")):
        bare = written.strip(_AROUND_WORDS).casefold().removesuffix("'s")
        if bare and bare not in _ARTICLES:
            yield bare


def worded(answer: str) -> str:
    """Return a pattern for the words of an answer in order, with an optional plural of the last."""
    words = list(words_of(answer)) or [answer.strip().casefold()]
    between = r"\W{1,4}(?:(?:an?|the)\s)?" + (r"(?:and\s)?" if "," in answer else "")
    plural = "(?:e?s)?" if words[-1][-2:].isalpha() else ""
    return rf"(?i:(?<!\w|\w['-]){between.join(map(regex.escape, words))}{plural}(?!['-]?(?!s\b)\w))"


def _options(options: Sequence[str]) -> AnswerType:
    longest_first = sorted(options, key=len, reverse=True)
    pattern = "|".join(
        r"(?i:(?<=\bor )no\b|\bno\b(?!\s+(?!because|since|as)\w))" if each == "no" else worded(each)
        for each in longest_first
    )
    named = dict(zip(options, options, strict=True))
    return AnswerType(f"(?:{pattern})", lambda said: _named(named, said) or said, f"(?:{pattern})")


def _choice(choices: Mapping[str, str]) -> AnswerType:
    """Return the answer type of a multiple-choice prompt: a letter, the words of its choice, or both.

    A letter with another choice's words is no answer.
    """
    letters, words = "".join(choices), "|".join(worded(each) for each in choices.values() if each) or "(?!)"
    letter = rf"[(\[]?(?<![\w°]|\w['-])(?:[{letters}]{_NO_ARTICLE}(?!['-]?\w)|(?<=\()[{letters.lower()}](?=\)))[)\]]?"
    pattern = (
        rf"(?:{letter}[.:]?[^\S\n]{{0,2}}(?:an?\s|the\s)?(?:{words})"
        rf"|(?:[{letters}]\s)?(?:{words})(?:\s\([{letters}]\))?|{letter})"
    )

    def stands_for(said: str) -> str:
        match = regex.fullmatch(
            r"[(\[]?(?P<letter>[A-Za-z])(?!['-]?\w)(?P<mark>[)\].:]*)\s*(?P<words>.*)"
            r"|(?P<words>.+?)(?:\s\((?P<letter>\w)\))?",
            said, regex.DOTALL,
        )  # fmt: skip
        assert match is not None
        letter, named = (match["letter"] or "").upper(), _named(choices, match["words"])
        if not letter or (letter == "A" and named and not match["mark"]):  # "A" may be the article
            return named or ""
        return letter if named in (None, letter) else ""

    return AnswerType(pattern, stands_for, pattern)


def _named(options: Mapping[str, str], said: str) -> str | None:
    return next((key for key, words in options.items() if words and regex.fullmatch(worded(words), said)), None)
