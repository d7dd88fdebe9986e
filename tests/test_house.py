"""Conventions of the repository: imports between packages, file trees in READMEs, and the places of tests."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest
from house import DOCUMENTS, ROOMS, ROOT, imports, modules, named, strings, tree
from quick import QUICK, TESTS

# Later entries may import earlier ones, never the other way round.
FLOORS = (
    "eexit.errors", "eexit.output", "eexit.cpu", "eexit.model", "eexit.method", "eexit.plan", "eexit.quality",
    "eexit.results", "eexit.costs", "eexit.decode",
    "eexit.sweeps", "eexit.custom_generate", "eexit.training", "eexit.studies", "eexit",
    "cluster.sweep_job", "cluster.signals", "cluster.console", "cluster", "cluster.studies", "cluster.assessment",
    "reports.progress", "reports.read", "reports.shared", "reports.sections", "reports.page",
    "reports", "jobs",
)  # fmt: skip
FORBIDDEN = {
    "eexit": {"ray", "altair", "cluster", "reports"}, "cluster": {"altair", "reports"},
    "reports": {"ray", "torch", "transformers", "cluster"}, "jobs": set(),
}  # fmt: skip


def floor(module: str) -> int:
    parts = module.split(".")
    return next(FLOORS.index(name) for n in (2, 1) if (name := ".".join(parts[:n])) in FLOORS)


@pytest.mark.parametrize("folder", sorted({"", *(module.rpartition(".")[0] for module in modules())}))
def test_what_stands_in_a_folder_does_not_import_in_a_circle(folder: str) -> None:
    """Any circle of modules is one of entries of the innermost folder that has all of them."""

    def entry(module: str) -> str:
        return module.removeprefix(folder).lstrip(".").partition(".")[0]

    inside = [module for module in modules() if f"{module}.".startswith(f"{folder}." if folder else "")]
    entries: dict[str, set[str]] = {}
    for module in inside:
        reached = {entry(name) for name in imports()[module] if name in inside}
        entries.setdefault(entry(module), set()).update(reached - {entry(module)})
    list(TopologicalSorter(entries).static_order())  # raises CycleError, naming the circle


def test_imports_go_one_way() -> None:
    pairs = [(module, name) for module, names in imports().items() for name in names]
    assert [f"{module} imports {name}" for module, name in pairs if floor(name) > floor(module)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_without(room: str) -> None:
    for module, path in modules().items():
        if module.split(".")[0] == room:
            loaded = [text for text in strings(tree(path)) if text in modules()]  # by `importlib.import_module`
            reached = {name.split(".")[0] for name in (*named(path), *loaded)}
            assert not reached & FORBIDDEN[room], module


def test_folders_say_what_lives_there() -> None:
    for path in modules().values():
        if path.name == "__init__.py":
            assert len(ast.get_docstring(tree(path)) or "") > 40, path


def test_reading_results_needs_neither_torch_nor_ray() -> None:
    large = {"torch", "transformers", "ray", "cluster"}
    code = f"import sys, reports, eexit.results.tables; print(*{large} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("room", ROOMS)
def test_the_tree_of_a_room_is_true(room: str) -> None:
    tree = (ROOT / room / "README.md").read_text().split("## What is where")[1].split("```")[1]
    folders: list[str] = []
    listed = set()
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.MULTILINE):
        folders = [*folders[: len(indent) // 2], name]
        listed.add("".join(folders))
    files = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".c", ".h")}
    folders_there = {f"{path.parent.as_posix()}/" for path in files} | {f"{room}/"}
    assert listed == folders_there | {path.as_posix() for path in files if path.name != "__init__.py"}


def test_no_two_classes_have_the_same_name() -> None:
    classes = [node for path in modules().values() for node in tree(path).body if isinstance(node, ast.ClassDef)]
    names = Counter(node.name for node in classes if not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_quick_tests_are_there() -> None:
    """A renamed file or test would otherwise drop out of `pytest -m quick` unnoticed."""
    for file, beginnings in QUICK.items():
        tests = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), re.MULTILINE)
        for beginning in beginnings:
            function, bracket, _ = beginning.partition("[")
            assert any(test == function if bracket else test.startswith(function) for test in tests), (file, beginning)


# Of more than one module: what holds wherever runs are made, kept or shown, and what is no module.
CROSS_CUTTING = {
    "eexit/test_cards.py", "eexit/test_invariants.py",
    "eexit/results/store/test_s3.py", "cluster/test_chaos.py", "cluster/test_faults.py",
    "cluster/console/test_secrets.py", "cluster/deploy/test_definitions.py", "jobs/test_command.py",
    "jobs/test_dtypes.py", "jobs/test_printed_lines.py", "jobs/test_readme.py", "jobs/test_submit.py",
    "jobs/test_trust.py", "jobs/files/test_results.py", "jobs/sweeps/prompts/test_study.py",
    "reports/test_sample.py",
    "reports/sections/test_sentences.py", "reports/template/test_every_page.py", "reports/template/test_javascript.py",
}  # fmt: skip


def test_a_test_file_stands_where_its_module_does() -> None:
    files = {path.relative_to(TESTS).as_posix() for room in ROOMS for path in (TESTS / room).rglob("test_*.py")}
    assert files >= CROSS_CUTTING
    beside = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.js")}
    subjects = {file: file.removesuffix(".py").replace("/test_", "/") for file in files - CROSS_CUTTING}
    lost = [file for file, of in subjects.items() if of.replace("/", ".") not in modules() and f"{of}.js" not in beside]
    assert sorted(lost) == []


WRITES = re.compile(
    r"\.write_(text|bytes|table)\(|open\([^)]*[\"'][wax]b?\+?[\"']|\bsave_file\(|\.to_parquet\(|np\.savez?\(|json\.dump\("
)
# Writes to memory, to a scratch folder, to a package's folder, which a rename completes, or to no file.
MAY_WRITE = {
    "eexit/output/atomic_files.py": 3,
    "eexit/training/training_checkpoint.py": 1,  # within `becoming`
    "eexit/model/sources.py": 1,
    "eexit/results/checksums.py": 1,
    "eexit/studies/export.py": 1,
    "eexit/studies/packaging/package_setting.py": 2,  # in the folder that becomes the setting
}


def test_whatever_is_written_is_written_whole() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.parent.name != "bench"]
    found = {path.relative_to(ROOT).as_posix(): len(WRITES.findall(path.read_text())) for path in files}
    assert {path: n for path, n in found.items() if n} == MAY_WRITE


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    for document in map(ROOT.joinpath, DOCUMENTS):
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            name, _, anchor = link.partition("#")
            if "://" not in link:
                there = document.parent / name if name else document
                assert there.exists(), f"{document} links to {link}"
                assert not anchor or anchor in anchors(there.read_text()), f"{document} links to {link}"
