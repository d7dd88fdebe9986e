"""Conventions of the repository: which packages may import which, and whether the README's file tree is true."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "eexit": {"eexit"},
    "cluster": {"cluster", "eexit"},
    "reports": {
        "reports",
        *(
            f"eexit.{name}"
            for name in (
                "artefacts",
                "bootstrap",
                "choosing",
                "config",
                "configuration",
                "drafts",
                "evaluation",
                "files",
                "further_schema",
                "judgements",
                "original_format",
                "places",
                "results",
                "risks",
                "rubric",
                "rules",
                "schema",
                "speedups",
                "splits",
                "states",
                "whole_files",
                "written",
            )
        ),
    },
    "jobs": {"jobs", "eexit", "cluster", "reports"},
}
FORBIDDEN = {
    "eexit": {"ray", "altair"},
    "reports": {"ray", "torch", "transformers"},
    "cluster": {"altair"},
    "jobs": set(),
}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return names | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            if name.split(".")[0] in MAY_IMPORT:
                assert within(name, MAY_IMPORT[room]), f"{path.relative_to(ROOT)} imports {name}"
            assert not within(name, FORBIDDEN[room]), f"{path.relative_to(ROOT)} imports {name}"


def test_reading_results_needs_no_torch() -> None:
    code = "import sys, reports, eexit.results.tables; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_tree_is_true() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    folders: list[str] = []
    listed = set()
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.MULTILINE):
        folders = [*folders[: len(indent) // 2], name]
        listed.add("".join(folders))
    files = {
        path.relative_to(ROOT)
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".c", ".h")
    }
    there = {path.as_posix() for path in files if path.name != "__init__.py"} | {
        f"{path.parent.as_posix()}/" for path in files
    }
    assert listed == there | {"tests/"}


def test_the_readme_snippet_is_the_tested_one() -> None:
    snippet = (ROOT / "README.md").read_text().split("One generation at a time, in Python:")[1].split("```")[1]
    tested = (ROOT / "tests/eexit/test_original.py").read_text()
    for statement in ast.parse(snippet.removeprefix("python\n")).body[1:]:
        assert ast.unparse(statement) in "\n".join(
            ast.unparse(node) for node in ast.walk(ast.parse(tested)) if isinstance(node, ast.stmt)
        )


def test_no_two_modules_have_the_same_name() -> None:
    modules = Counter(path.stem for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py") if not is_entry(path))
    assert [name for name, count in modules.items() if count > 1] == []


def is_entry(path: Path) -> bool:
    """Whether a file is a package's `__init__.py`, or a script in jobs/, which is named for what it does."""
    return path.stem.startswith("__") or path.parent == ROOT / "jobs"


def test_no_two_classes_have_the_same_name() -> None:
    classes = Counter(
        node.name
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


WRITES = re.compile(
    r"\.write_(text|bytes|table)\(|open\([^)]*[\"'][wax]b?\+?[\"']|\bsave_file\(|\.to_parquet\(|np\.savez?\(|json\.dump\("
)
# Files in memory or in a scratch folder; the packages' own folder is made whole by its rename; what isn't a file.
MAY_WRITE = {
    "eexit/whole_files.py": 3,
    "eexit/training/run/saving.py": 1,  # within `becoming`
    "eexit/model/sources.py": 1,
    "eexit/results/seals.py": 1,
    "eexit/studies/export/export.py": 1,
}


def test_whatever_is_written_is_written_whole() -> None:
    files = [path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py") if path.parent.name != "bench"]
    found = {path.relative_to(ROOT).as_posix(): len(WRITES.findall(path.read_text())) for path in files}
    assert {path: n for path, n in found.items() if n} == MAY_WRITE
