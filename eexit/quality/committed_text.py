"""Assertions of a text: the text without questions, denials, alternatives, corrections and asides."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from unicodedata import normalize

import regex

from eexit.quality.answer_types import AnswerType, choices_of, worded, words_of

# Markup and its replacement, compiled here: a lookup in the cache of `regex` takes longer than a search of a text.
_PLAIN: Final = tuple((regex.compile(written), meant) for written, meant in (
    (r"\\boxed\{((?:[^{}]|\{[^{}]{0,99}\}){0,99})\}", r" answer: \1 "),
    (r"####", " answer: "),
    (r"\\[a-z]{1,20}\{([^{}]{0,99})\}(?!\{)", r"\1"),
    (r"</?[a-zA-Z][^<>]{0,40}>|```\w{0,12}", " "),
    (r"(?<![\w)])[*_`]+(?=\S)|(?<=\S)[*_`]+(?![\w(])", ""),
    (r"(?<=\p{Han})(?=[A-Za-z\d])|(?<=[A-Za-z\d])(?=\p{Han})", " "),
    (r"[“”«»„]", '"'),
    (r"[‘’]", "'"),
    (r"。", ". "),
    (r"(?:(?<=\n)[ \t]{0,8}\d{1,2}|\A1)[.)](?=[ \t]{1,8}\S)", ""),  # the "1." of a list
))  # fmt: skip
_SENTENCE: Final = regex.compile(r"[^\n.!?]*+(?:[.!?]++(?![\"')\]]*+(?:\s|\Z))[^\n.!?]*+)*+(?:[.!?]++[\"')\]]*+)?+\s*+")
CLAUSE_END: Final = regex.compile(r"[.!,;]\s|\n|\b(?:and|but|while)\b")
_NEXT: Final = regex.compile(
    r"(?i)\W*(?:next |new )?(?:question|q|problem|exercise|user|human|prompt|task|check|verification|proof)\b"
    r"[ \d]{0,4}[:.)]"
)
_OF_ITSELF: Final = regex.compile(
    r"(?i)\W*(?:wait|hmm|so|but|and)?\W*(?:is|was|are|isn't|does)\s(?:that|this|it|you sure)\b"
)
_CORRECTION: Final = regex.compile(
    r"(?i)\b(?:wait|sorry|oops|correction|scratch that|my mistake|i mean)\b|(?:\.\.\.|[,—–])\s*no[,:]\s"
    r"|\bbut (?:it|that)(?:'s| is| was) actually\b|\bactually,? (?:no|it's|it is|that's)\b"
)
_NOT: Final = (
    r"(?i:\b(?:not|never|neither|nor|cannot|instead of|rather than|except|used to|(?:once|first|i) thought)\b|n't\b)"
    r"(?!\s(?:only|just|sure|know)\b)(?:\s{1,3}(?!(?:but|and|so|only)\b)[\w']{1,20}){0,5}?\s{1,3}[\"'(\[]{0,2}"
)
_AMONG: Final = r"(?i:\b(?:both|either|between)\b)(?:\s{1,3}[\w']{1,20}){0,4}?\s{1,3}[\"']?"
_IS_NOT: Final = (
    r"[\"')\]]{0,2}\s{1,3}(?i:is|was|are|were|can|could|does|did|would)"
    r"(?i:n't\b|not\b|\s{1,3}(?:not(?!\s(?:only|just)\b)|never|wrong|incorrect|false)\b)"
)
# Searched first, since patterns with a prompt's answer are compiled for each prompt.
_DENIES: Final = regex.compile(f"{_NOT}|{_AMONG}|{_IS_NOT}")
_ASIDE: Final = regex.compile(
    r"(?i)\b(?:because|since|as|than|after|while|whereas|although|though|compared|out of|of (?:all|the)"
    r"|or (?:about|roughly)|which (?:is|lies) (?:an?|in|on|the|north|south|east|west))\b"
)
_HYPOTHETICAL: Final = regex.compile(r"(?i)(?<!\bi )\bwould (?!be\b)")
_COMMON: Final = regex.compile(
    "and|are|did|does|for|from|had|has|have|how|its|many|much|one|that|their|there|these|this|those|was|were|what|when|"
    "where|which|who|will|with|word"
)
_LONG_WORD: Final = regex.compile(r"\p{L}{3,}")


def plain(prompt: str, text: str) -> str:
    """Return the text without markup, and without parts that repeat the prompt, its last question or its lists."""
    text = normalize("NFKC", text)
    for written, meant in _PLAIN:
        text = written.sub(meant, text)
    for letter, said in list(choices_of(prompt).items())[:1]:
        text = regex.sub(rf"(?m)^[ \t]*{letter}:(?!\s{{0,3}}{worded(said)})", "answer:", text)
    lists = regex.findall(r"(?:\w[\w' -]{0,30}, ){2,20}\w[\w'-]{0,30}", prompt)
    *_, last = prompt.strip().rsplit("\n", 1)
    for echo in (prompt.strip(), *(last.strip() for _ in range(last.endswith("?"))), *lists):
        text = text.replace(echo, "\n") if echo else text
    return text


def words(text: str) -> frozenset[str]:
    """Return the words that identify the subject of a text."""
    return frozenset(word for word in words_of(text) if _LONG_WORD.fullmatch(word) and not _COMMON.fullmatch(word))


def sentences(text: str) -> Iterator[str]:
    return (match[0] for match in _SENTENCE.finditer(text) if match[0])


@dataclass(frozen=True)
class QuestionFocus:
    """Subject of a question, in words, and the other subjects of the prompt's passage."""

    asked: frozenset[str]
    others: frozenset[str] = frozenset()

    @classmethod
    def from_prompt(cls, prompt: str) -> "QuestionFocus":
        """Find the subject of a prompt's last question.

        Clauses of the passage that share most words with the question have the same subject.
        """
        if choices := choices_of(prompt):
            return cls(words(prompt) - words(" ".join(choices.values())))
        parts = [*sentences(prompt)] or [""]
        at = max((index for index, part in enumerate(parts) if part.rstrip().endswith("?")), default=0)
        clauses, question = [words(each) for part in parts[:at] for each in CLAUSE_END.split(part)], words(parts[at])
        passage = _union(clauses)
        asked = question & passage or question
        most = max((len(clause & asked) for clause in clauses), default=0) or 1
        same = _union(clause for clause in clauses if len(clause & asked) == most)
        rest = _union(clause for clause in clauses if len(clause & asked) != most)
        return cls((asked | same) - rest or asked, passage - question - same)

    def is_other(self, clause: str, answers: frozenset[str]) -> bool:
        """Return True if a clause is about another subject of the passage, and not about the question's."""
        about = words(clause) - answers
        return bool(about & self.others) and not about & self.asked


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def before_own_question(text: str, kind: AnswerType) -> str:
    """Return the text up to the first question after an answer, without the questions before."""
    kept: list[str] = []
    answered, line_begins = False, True
    for sentence in sentences(text):
        is_question = sentence.rstrip("\"')] \n").endswith("?")
        new = is_question and len(sentence.split()) > 2 and not _OF_ITSELF.match(sentence)
        if kept and (_NEXT.match(sentence) or (new and (answered or line_begins))):
            break
        if not is_question or (not answered and len(sentence.split()) < 3 and text.endswith(sentence)):
            kept.append(sentence)
            answered = answered or regex.search(kind.pattern, sentence) is not None
        line_begins = sentence.endswith("\n")
    return "".join(kept)


def undenied(text: str, kind: AnswerType) -> str:
    """Return the text without the answers that it rejects, leaves open or corrects later."""
    *_, corrected = (0, *(match.start() for match in _CORRECTION.finditer(text)))
    text = kind.without_alternatives(text[corrected:])
    if not _DENIES.search(text):
        return text
    return str(regex.sub(f"{_NOT}{kind.pattern}|{_AMONG}{kind.pattern}|{kind.pattern}{_IS_NOT}", " ", text))


def to_the_point(text: str, kind: AnswerType, subject: QuestionFocus) -> str:
    """Return the text without asides, hypotheses, and statements about other subjects than the question's."""
    said = (each for each in sentences(text) if not _HYPOTHETICAL.search(each))
    return "".join(
        _without_reason(_without_others(_without_parentheses(each, kind), kind, subject), kind) for each in said
    )


def _without_parentheses(sentence: str, kind: AnswerType) -> str:
    """Return the sentence without parentheses after an answer, unless they contain only an answer."""
    said = regex.compile(rf"\(?{kind.pattern}\)?")
    first = regex.search(kind.pattern, sentence)
    end = first.end() if first else len(sentence)
    after = regex.sub(r"\([^()\n]*+\)?+", lambda aside: aside[0] if said.fullmatch(aside[0]) else " ", sentence[end:])
    return sentence[:end] + str(after)


def _without_reason(sentence: str, kind: AnswerType) -> str:
    """Return the sentence without a reason or comparison after an answer."""
    first = regex.search(kind.pattern, sentence)
    reason = first and _ASIDE.search(sentence, first.end())
    return sentence[: reason.start()] + "\n" * sentence.endswith("\n") if reason else sentence


def _without_others(sentence: str, kind: AnswerType, subject: QuestionFocus) -> str:
    if not subject.others:
        return sentence
    clauses = regex.split(f"({CLAUSE_END.pattern})", sentence)
    return "".join(
        " "
        if subject.is_other(clause, words(" ".join(match[0] for match in regex.finditer(kind.pattern, clause))))
        else clause
        for clause in clauses
    )
