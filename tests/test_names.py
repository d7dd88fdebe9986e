"""Documents and docstrings name only what exists: every path, dotted name and word of code in backticks."""

import re
from pathlib import Path

import pytest
from defined_names import WORD, code, comments, docstrings, resolves, vocabulary
from house import ROOMS, ROOT, modules

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"{room}/README.md" for room in ROOMS),
)
# A file by its name; something with a slash, which is a path or a configuration's key; names with dots; calls.
FENCED = re.compile(r"```.*?```", re.DOTALL)
FILE = re.compile(r"(?<![\w./<-])[\w-]+\.(?:py|js|css|html|c|h|md|toml|yaml|sh|svg)\b")
SLASHED = re.compile(r"(?<![\w./:<…-])[\w.-]+/[\w./-]*(?![\w…])")
DOTTED = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/-])")
CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\(")
DATA = re.compile(r"[\w-]+\.(?:json|jsonl|parquet|safetensors)")
# Files that only a reader has, and names from other people's code.
THEIRS = {
    "WSR", "before.json", "hf", "inv_freq", "lm_eval", "max_time", "mine.py", "mine.toml", "nohup", "npm", "ray_",
    "register_module_forward_hook", "return_dict_in_generate", "simple_evaluate",
}  # fmt: skip


def is_there(path: str, folder: Path) -> bool:
    """Return True if a path exists relative to this folder or to one above it."""
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
    """Return the texts in backticks, each on one line."""
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


@pytest.mark.parametrize(
    "span",
    ["schema.TOKENS", "reports.frames.accuracy", "read_sweep(…).reporting", "accuracy_of(sweep)", "nothing_so_named",
     "eexit/nowhere.py", "nowhere.json", "TIMINGS.explain()", "Sweep.reporting", "torch.no_such_name"],
)  # fmt: skip
def test_what_does_not_exist_is_found(span: str) -> None:
    assert missing(span, ROOT / "README.md", set())
