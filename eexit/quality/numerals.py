"""Numbers in a text: their notations, their values, and the calculations that they belong to."""

from decimal import Decimal
from typing import Final

import regex

# Every repetition below is bounded or possessive, so that the time is linear in the length of a text.
_SPACE = r"[ \u00a0\u2009\u202f]"
_VALUE = (
    r"(?P<whole>[1-9]\d{0,2}(?:,\d{3}){1,9})(?!\d)(?:\.(?P<part>\d++))?"  # 1,000.5
    rf"|(?P<whole>[1-9]\d{{0,2}}(?:{_SPACE}\d{{3}}){{1,9}})(?!\d)(?:[.,](?P<part>\d++))?"  # 1 000,5
    r"|(?P<whole>[1-9]\d{0,2}(?:\.\d{3}){2,9})(?!\d)(?:,(?P<part>\d++))?"  # 1.000.000,5
    r"|(?P<whole>[1-9]\d{0,2}\.\d{3}),(?P<part>\d++)"  # 1.000,5
    r"|(?P<whole>\d++)(?:[.,](?P<part>\d++))?"  # 1000,5
    r"|(?<!\.)\.(?P<part>\d++)"  # .5
)
_SCALES: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
NUMBER: Final = (
    r"(?=[-−–$€£¥\d.mMnN])"  # excludes most positions quickly
    r"(?P<sign>(?<![\w)\]}])[-−–]|\b(?i:minus|negative)\s{1,3})?(?:[$€£¥]\s?)?"
    rf"(?<![\w^])(?<!\^\{{)(?<!\d[.,:/]|\p{{L}}\.)(?:{_VALUE})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\w))?"
    r"(?![.,:]?\d)(?!\p{L}{1,20}\d)(?!(?i:st|nd|rd|th)\b)"  # no 12:30, no 12h30, no 7th
    rf"(?:[^\S\n](?P<scale>(?i:{'|'.join(_SCALES)}))\b)?"
)
_WHOLE_NUMBER = regex.compile(rf"\s*+{NUMBER}\s*+[%$€£¥]?\.?\s*+")

_OPERATORS: Final = {
    "^": r"\*\*|\^",
    "*": r"[*×x·⋅]|\\times|\\cdot|times|multiplied by",
    "/": r"[/÷]|\\div|divided by",
    "+": r"\+|plus",
    "-": r"[-−–]|minus",
}
_OPERAND = rf"\(?(?:[$€£¥]\s?)?(?<![\w.,])\d++(?:[.,]\d++|{_SPACE}\d{{3}}(?!\d)){{0,9}}+%?\)?"
_OPERATOR = rf"[^\S\n]{{0,3}}(?:{'|'.join(_OPERATORS.values())})[^\S\n]{{0,3}}"
_CALCULATION = regex.compile(rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})++")
_CUT_OFF = regex.compile(rf"{_OPERAND}{_OPERATOR}\s{{0,3}}\Z")
_GIVES = regex.compile(
    r"[^.\n\d]{0,25}?(?:=|\b(?i:is|equals?|gives?|makes?)\b)[^.\n\d]{0,25}?"
    rf"(?P<result>{NUMBER})(?!{_OPERATOR}[\d(])"
)
_FRACTION = regex.compile(r"\\[dt]?frac\{([^{}]{0,30})\}\{([^{}]{0,30})\}")
_TEENS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS: Final = {word: value for value, word in enumerate(_TEENS.split())} | {
    word: 20 + 10 * at for at, word in enumerate(_TENS.split())
}
_WORD: Final = regex.compile(
    rf"(?i)\b(?<!\b(?:this|that|each|which|the|no|every|any) )({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    rf"(?:(?<=ty)[- ]({'|'.join(_TEENS.split()[1:10])}))?\b"
)


def number_of(answer: str) -> Decimal | None:
    """Return the value of an answer that is only a number; None for other answers."""
    match = _WHOLE_NUMBER.fullmatch(answer)
    if match is None:
        return None
    whole, power = regex.sub(r"\D", "", match["whole"] or "0"), int(match["power"] or 0)
    power += _SCALES[match["scale"].lower()] if match["scale"] else 0
    return Decimal(f"{'-' if match['sign'] else ''}{whole}.{match['part'] or 0}e{power}")


def share_of(answer: str) -> Decimal | None:
    """Return the value of a number with its percent sign: 0.5 for 50 %."""
    value = number_of(answer)
    return value / 100 if value is not None and "%" in answer else value


def digits_for_words(text: str) -> str:
    """Return the text with LaTeX's fractions as 1/2 and, if it has no digits, 7 for "seven"."""
    text = _FRACTION.sub(r"\1/\2", text)
    if regex.search(r"\d", text):
        return text
    return str(_WORD.sub(lambda match: str(_WORDS[match[1].lower()] + _WORDS[(match[2] or "zero").lower()]), text))


def without_given(prompt: str, expected: str, sentence: str) -> str:
    """Return the sentence without the prompt's numbers, if it has others and the answer is not in the prompt."""
    given = {number_of(match[0]) for match in regex.finditer(NUMBER, prompt)}
    said = {number_of(match[0]) for match in regex.finditer(NUMBER, sentence)}
    if number_of(expected) in given or said <= given:
        return sentence
    return str(regex.sub(NUMBER, lambda match: " " if number_of(match[0]) in given else match[0], sentence))


def without_cut_off(text: str) -> str:
    """Return the text without a truncated repetition of an earlier sentence's number at its end: "It is 19. The 1"."""
    *earlier, last = [*regex.finditer(NUMBER, text)] or [None]
    if not earlier or last.end() < len(text) or last[0] == earlier[-1][0] or not earlier[-1][0].startswith(last[0]):
        return text
    is_later = regex.search(r"[.\n]", text, pos=earlier[-1].end(), endpos=last.start())
    return text[: last.start()] if is_later else text


def without_calculations(text: str) -> str:
    """Return the text without "3 + 4", "1/3" and "2-5", and without a truncated "3 +" at its end."""
    return str(_CUT_OFF.sub(" ", _CALCULATION.sub(" ", text)))


def results(prompt: str, text: str) -> list[str]:
    """Return the text's results of the prompt's calculations: "42" of "6 × 7 is 42" if the prompt asks for 6 × 7."""
    asked = {_canonical(calculation[0]) for calculation in _CALCULATION.finditer(prompt)}
    done = [match for match in _CALCULATION.finditer(text) if _canonical(match[0]) in asked]
    return [given["result"] for match in done if (given := _GIVES.match(text, match.end()))]


def _canonical(calculation: str) -> str:
    for sign, written in _OPERATORS.items():
        calculation = regex.sub(written, sign, calculation)
    return str(regex.sub(r"[^\d.^*/+-]", "", calculation))
