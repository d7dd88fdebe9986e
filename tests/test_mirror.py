"""Tests mirror the packages: the tests of a module stand in `tests/<package path>/test_<module>.py`."""

from house import ROOMS, ROOT, modules

TESTS = ROOT / "tests"
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
