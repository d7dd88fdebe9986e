"""The repository: its packages, their modules, and the imports of each module."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("eexit", "cluster", "reports", "jobs")
DOCUMENTS: Final = ("README.md", "CONTRIBUTING.md", *(f"{room}/README.md" for room in ROOMS))


@cache
def modules() -> dict[str, Path]:
    """Return dotted name → path of the modules of all packages."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def strings(module: ast.Module) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings, with braces for each value that is put in."""
    within = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values}
    within |= {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.value


def named(path: Path) -> Iterator[str]:
    """Yield a file's imports, inside functions and for typing too: modules, and names that may be modules."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def imports() -> dict[str, set[str]]:
    """Return module → modules of ours that it imports."""
    graph = {}
    for module, path in modules().items():
        ours = {name if name in modules() else name.rpartition(".")[0] for name in named(path)}
        graph[module] = {name for name in ours if name in modules()} - {module}
    return graph
