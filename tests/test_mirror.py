"""Tests mirror the packages: the tests of a module stand in `tests/<package path>/test_<module>.py`."""

from house import ROOMS, ROOT, modules

TESTS = ROOT / "tests"
# Of more than one module: what holds wherever runs are made, kept or shown.
CROSS_CUTTING = {
    "eexit/test_invariants.py", "eexit/results/store/test_s3.py", "cluster/test_chaos.py", "cluster/test_faults.py",
    "jobs/test_readme.py", "jobs/test_dtypes.py",
}  # fmt: skip
# Folders whose tests have yet to be moved.
UNMIRRORED = ("eexit/decode/", "cluster/", "jobs/", "reports/")


def test_a_test_file_stands_where_its_module_does() -> None:
    files = {path.relative_to(TESTS).as_posix() for room in ROOMS for path in (TESTS / room).rglob("test_*.py")}
    assert files >= CROSS_CUTTING
    lost = {
        file
        for file in files - CROSS_CUTTING
        if file.removesuffix(".py").replace("/test_", ".").replace("/", ".") not in modules()
    }
    assert sorted(file for file in lost if not file.startswith(UNMIRRORED)) == []
