"""Templates of what was found: short, each used somewhere, with names that those who fill them in give."""

import re
from pathlib import Path
from string import Formatter

import pytest

from eexit.studies.choosing import findings

ROOT = Path(__file__).parents[4]
TEMPLATES = {name: text for name, text in vars(findings).items() if name.isupper()}
SOURCES = "\n".join(
    path.read_text() for room in ("eexit", "cluster", "reports", "jobs") for path in (ROOT / room).rglob("*.py")
)
MOST_WORDS = 30


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_one_short_sentence_of_named_numbers(name: str) -> None:
    text = TEMPLATES[name]
    assert len(text.split()) <= MOST_WORDS
    assert text.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", text), "one sentence"
    fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
    assert all(field.isidentifier() for field in fields)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_used(name: str) -> None:
    assert re.search(rf"\bfindings\.{name}\b", SOURCES)


def test_no_two_templates_are_the_same() -> None:
    assert len(set(TEMPLATES.values())) == len(TEMPLATES)
