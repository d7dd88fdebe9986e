"""Sentences are defined where they are used, and each is short."""

import re
from pathlib import Path

import pytest
from house import modules, strings, tree

MODULES = [path for name, path in modules().items() if name.startswith(("reports.sections", "reports.shared"))]
MOST_WORDS = 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_sentence_is_short(path: Path) -> None:
    sentences = [each for text in strings(tree(path)) for each in re.split(r"(?<=[.:;?]) ", text)]
    assert [each for each in sentences if len(each.split()) > MOST_WORDS] == []
