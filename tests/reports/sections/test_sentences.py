"""Sentences are defined where they are used, and each is short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3] / "reports"
MODULES = sorted([*(ROOT / "sections").rglob("*.py"), *(ROOT / "shared").glob("*.py")])
MOST_WORDS = 30


def texts_of(source: str) -> Iterator[str]:
    """Return the texts of a module, without docstrings; a number or name that is filled in is one word."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def too_long(source: str) -> list[str]:
    sentences = [each for text in texts_of(source) for each in re.split(r"(?<=[.:;?]) ", text)]
    return [each for each in sentences if len(each.split()) > MOST_WORDS]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_sentence_is_short(path: Path) -> None:
    assert too_long(path.read_text()) == []


def test_a_long_sentence_is_found_however_it_is_put_together() -> None:
    words = " word" * MOST_WORDS
    assert too_long(f'said = f"{{setting}}{words}."')
    assert too_long(f'said = ("a" "{words}.")')
    assert not too_long(f'def f():\n    """{words} and more."""')
