"""The names that the packages define, and what dotted names lead to, found without importing the code."""

import ast
import builtins
import re
import symtable
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

from house import ROOMS, ROOT, modules, tree

WORD: Final = re.compile(r"[A-Za-z_]\w*")
# Names that documents and docstrings use without their package → full names.
STANDS_FOR: Final = {
    "Random": "random.Random", "model": "transformers.GenerationMixin", "pd": "pandas", "setting": "Setting",
}  # fmt: skip


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node, clean=False) or ""


def comments(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from (token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def _symbols(table: symtable.SymbolTable) -> set[str]:
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_annotated()}


@cache
def of_modules() -> dict[str, set[str]]:
    """Return module → names that it defines or imports, lazy names (`__all__`), and its submodules."""
    held = {}
    for module, path in modules().items():
        given = [node for node in tree(path).body if isinstance(node, ast.Assign)]
        public = [node.value for node in given if ast.unparse(node.targets[0]) == "__all__"]
        lazy = {name for names in public for name in ast.literal_eval(names)}
        held[module] = _symbols(symtable.symtable(path.read_text(), str(path), "exec")) | lazy
    for module in modules():
        held.get(module.rpartition(".")[0], set()).add(module.rpartition(".")[2])
    return held


@cache
def of_classes() -> dict[str, set[str]]:
    """Return class → methods, fields, attributes of `self`, and the same of bases in our packages."""
    held, bases = {}, {}
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                (table,) = symtable.symtable(ast.unparse(node), "", "exec").get_children()
                kept = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
                held[node.name] = _symbols(table) | kept
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    for _ in range(3):
        for name, above in bases.items():
            held[name] |= set().union(*(held.get(base, set()) for base in above))
    return held


@cache
def classes_of() -> dict[str, str]:
    """Return function → class of its annotated result, and constant → class whose call makes it."""
    found = {}
    for node in (node for path in modules().values() for node in ast.walk(tree(path))):
        match node:
            case ast.FunctionDef(name=name, returns=ast.Name(id=of)):
                found[name] = of
            case (
                ast.AnnAssign(target=target, value=ast.Call(func=ast.Name(id=of)))
                | ast.Assign(targets=[target], value=ast.Call(func=ast.Name(id=of)))
            ) if isinstance(target, ast.Name):
                found[target.id] = of
    return found


@cache
def code(path: Path) -> tuple[set[str], set[str]]:
    """Return the words of a module's code and strings, and the strings; docstrings are left out."""
    texts = set(docstrings(path))
    words, strings = set[str](), set[str]()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                words.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                words.add(name)
            case ast.alias(name=name, asname=other):
                words |= {*name.split("."), other or name}
            case ast.Constant(value=str(text)) if text not in texts:
                words |= set(WORD.findall(text))
                strings.add(text)
    return words, strings


@cache
def vocabulary() -> set[str]:
    """Return the names that may be used anywhere: definitions, options, columns, words of the page and of Python."""
    ours = [*of_modules().values(), *of_classes().values(), *(code(path)[1] for path in modules().values())]
    files = (path for kind in ("*.js", "*.toml") for room in ROOMS for path in (ROOT / room).rglob(kind))
    return set(ROOMS).union(dir(builtins), *ours, *(WORD.findall(path.read_text()) for path in files))


def resolves(dotted: str, module: Path | None) -> bool:
    """Return True if a dotted name exists in our modules or classes, in that module's code, or in another package."""
    names = dotted.split(".")
    if module and dotted in module.read_text().replace(f"`{dotted}", ""):
        return True
    if names[0] in STANDS_FOR:
        owner, names = STANDS_FOR[names[0]], names[1:]
        return names[0] in of_classes()[owner] if owner in of_classes() else _can_be_had([*owner.split("."), *names])
    for n in range(len(names), 0, -1):
        ending = "." + ".".join(names[:n])
        found = [name for name in modules() if f".{name}".endswith(ending)]
        if any(_holds(name, names[n:]) for name in found):
            return True
        if found:
            return False
    owner = classes_of().get(names[0], names[0])
    return names[1] in of_classes()[owner] if owner in of_classes() else _can_be_had(names)


def _holds(module: str, names: list[str]) -> bool:
    if not names:
        return True
    if names[0] not in of_modules()[module]:
        return False
    owner = classes_of().get(names[0], names[0])
    return len(names) == 1 or owner not in of_classes() or names[1] in of_classes()[owner]


def _can_be_had(names: list[str]) -> bool:
    for n in range(len(names), 0, -1):
        try:
            found: object = import_module(".".join(names[:n]))
        except ImportError:
            continue
        for name in names[n:]:
            found = getattr(found, name, None)
        return found is not None
    return False
