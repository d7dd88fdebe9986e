"""Documents and docstrings name only what exists; classes are nouns, and docstrings of functions begin with a verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from defined_names import WORD, code, comments, docstrings, resolves, vocabulary
from house import DOCUMENTS, ROOMS, ROOT, modules, tree

# A file by its name; something with a slash, which is a path or a configuration's key; names with dots; calls.
FENCED = re.compile(r"```.*?```", re.DOTALL)
FILE = re.compile(r"(?<![\w./<-])[\w-]+\.(?:py|js|css|html|c|h|md|toml|yaml|sh|svg)\b")
SLASHED = re.compile(r"(?<![\w./:<…-])[\w.-]+/[\w./-]*(?![\w…])")
DOTTED = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/-])")
CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\(")
DATA = re.compile(r"[\w-]+\.(?:json|jsonl|parquet|safetensors)")
# Files that only a reader has, and names from other people's code.
THEIRS = {"WSR", "hf", "mine.py", "nohup", "npm", "ray_", "simple_evaluate"}


def is_there(path: str, folder: Path) -> bool:
    return any((start / path).exists() for start in (folder, *folder.parents) if start.is_relative_to(ROOT))


def is_ours(path: str) -> bool:
    """Return True if a text with a slash means a path in the repository, not one in results or a key."""
    return path.split("/")[0] in (*ROOMS, "tests") or FILE.fullmatch(path.rpartition("/")[2]) is not None


def missing(span: str, file: Path, words: set[str]) -> set[str]:
    """Return the names in a text in backticks that don't exist, except `words`, which the file itself has."""
    module = file if file.suffix == ".py" else None
    paths = {path for path in SLASHED.findall(span) if is_ours(path)} | set(FILE.findall(SLASHED.sub("", span)))
    plain = FILE.sub("", SLASHED.sub("", span))
    names = set(CALLED.findall(plain))
    while (shorter := re.sub(r"\([^()]*\)", "", plain)) != plain:
        plain = shorter
    names |= {plain} if WORD.fullmatch(plain) or DATA.fullmatch(plain) else set()
    return (
        {path for path in paths - THEIRS if not is_there(path, file.parent)}
        | {name for name in DOTTED.findall(plain) if not DATA.fullmatch(name) and not resolves(name, module)}
        | {name for name in names - THEIRS if name not in vocabulary() and name not in words}
    )


def spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_what_exists(document: str) -> None:
    path = ROOT / document
    text, blocks = FENCED.sub("", path.read_text()), " ".join(FENCED.findall(path.read_text()))
    words = set(WORD.findall(blocks)).union(*(code(module)[0] for module in modules().values()))
    assert {span: gone for span in spans(text) if (gone := missing(span, path, words))} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_and_comments_name_what_exists(room: str) -> None:
    lost = {
        (str(path.relative_to(ROOT)), span): gone
        for module, path in modules().items()
        if module.partition(".")[0] == room
        for text in (*docstrings(path), *comments(path))
        for span in spans(text)
        if (gone := missing(span, path, code(path)[0]))
    }
    assert lost == {}


def test_what_does_not_exist_is_found() -> None:
    for span in (
        "schema.TOKENS", "reports.frames.accuracy", "read_sweep(…).reporting", "accuracy_of(sweep)", "nothing_so_named",
        "eexit/nowhere.py", "nowhere.json", "TIMINGS.explain()", "Sweep.reporting", "torch.no_such_name",
    ):  # fmt: skip
        assert missing(span, ROOT / "README.md", set()), span


# Words that never stand alone as a name.
RESERVED = {
    "asked", "found", "given", "kept", "left", "look", "of", "own", "part", "row", "said", "seen", "state", "taken",
    "told", "unit", "use", "work",
}  # fmt: skip
PREPOSITIONS = {
    "after", "at", "before", "beside", "by", "for", "from", "in", "instead", "of", "to", "under", "until", "what",
    "where", "which", "with",
}  # fmt: skip
PARTICIPLES = {
    "asked", "chosen", "deciding", "decoding", "done", "drafted", "drawn", "exited", "found", "given", "handed",
    "judging", "kept", "landed", "leaves", "leaving", "left", "made", "measured", "owed", "packed", "passing",
    "picked", "prefilled", "ran", "reached", "replayed", "said", "saved", "scored", "seen", "studied", "taken",
    "taught", "tested", "timed", "told", "wanted",
}  # fmt: skip
# Names that gave way to the field's words.
RETIRED = {
    "are_all", "are_none", "AskedOfRows", "asks", "beside", "ByKL", "chosen", "Contender", "Contenders", "fork_of",
    "handed_over", "HandedOver", "here", "InARow", "keys_alone", "KeysAlone", "KeysWritten", "know", "land",
    "landed", "landed_tally", "Layer", "learned", "Leaves", "Ledger", "ledger", "lifecycle", "likeliest",
    "likeliest_so_far", "look_at_model", "LossesAndCosts", "make_known", "not_landed", "observe", "owes",
    "own_actor", "Pieces", "Prices", "read_landed", "refusals", "says_otherwise", "screening", "seals", "settle",
    "shown", "Silence", "StandIn", "StateMaps", "streams", "sure_and_wrong", "take_apart", "take_home",
    "take_stock", "Taught", "teach", "teacher", "Teacher", "teacher_pass", "Times", "waited_for", "WhatToTime",
    "WhatToTrain", "Whereabouts", "whereabouts", "whole_files", "worth_running", "writing_shards",
}  # fmt: skip
NO_VERBS = {
    "a", "above", "after", "all", "also", "an", "and", "another", "any", "as", "at", "before", "below", "beside",
    "between", "both", "but", "by", "each", "every", "for", "from", "he", "here", "his", "how", "i", "if", "in",
    "into", "it", "its", "no", "not", "of", "on", "one", "only", "or", "our", "over", "per", "she", "some", "such",
    "than", "that", "the", "their", "them", "there", "these", "they", "this", "those", "to", "under", "until", "we",
    "what", "whatever", "when", "where", "whether", "which", "while", "who", "whose", "why", "with", "within",
    "without", "you",
}  # fmt: skip
HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]+")
NOUN_PHRASES = ("property", "cached_property")  # decorators of methods that read as fields
Function = ast.FunctionDef | ast.AsyncFunctionDef


def defined(kind: type[ast.AST] | UnionType) -> Iterator[tuple[str, Any]]:
    """Yield the place and the node of every class or function in the packages."""
    for path in modules().values():
        nodes: list[Any] = [node for node in ast.walk(tree(path)) if isinstance(node, kind)]
        yield from ((f"{path.relative_to(ROOT)}:{node.lineno}", node) for node in nodes)


def is_misnamed(name: str) -> bool:
    """Return True if a class is named by a participle, a preposition or a clause."""
    words = [word.lower() for word in HUMP.findall(name)]
    return words[-1] in PARTICIPLES | PREPOSITIONS or words[0] in PREPOSITIONS


def begins_with_no_verb(docstring: str) -> bool:
    """Return True if a docstring begins with an article, a preposition, a pronoun or a question word."""
    first = re.match(r"\W*([\w'’-]+)", docstring)
    return first is not None and first[1].lower() in NO_VERBS


def test_classes_are_nouns() -> None:
    assert [(place, node.name) for place, node in defined(ast.ClassDef) if is_misnamed(node.name)] == []


def test_no_reserved_or_retired_word_is_a_whole_name() -> None:
    gone = RESERVED | RETIRED
    named = [(place, node.name) for place, node in defined(ast.ClassDef | Function)]
    assert [(place, name) for place, name in named if name.strip("_") in gone or name.lower() in RESERVED] == []
    assert [module for module in modules() if module.rpartition(".")[2] in gone] == []


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    functions = [
        (place, node)
        for place, node in defined(Function)
        if not any(ast.unparse(each).rpartition(".")[2] in NOUN_PHRASES for each in node.decorator_list)
    ]
    assert [place for place, node in functions if begins_with_no_verb(ast.get_docstring(node) or "")] == []


def test_a_name_that_is_no_noun_and_a_docstring_without_a_verb_are_found() -> None:
    for name in ("Left", "TakenAfter", "TimedAt", "ByKL", "WhatToTime", "BesideNormal", "HandedOver"):
        assert is_misnamed(name) or name in RETIRED
    for docstring in ("The shares.", "Whether it exits.", "What a layer predicts.", "Of each token."):
        assert begins_with_no_verb(docstring)
    assert not begins_with_no_verb("Return the shares.")
