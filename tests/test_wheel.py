"""The wheel contains the packages with all files that they read at run time, and the `py.typed` markers."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("eexit", "cluster", "jobs", "reports")
BENCH = ROOT / "jobs" / "bench"  # measures a clone
BUILD = "from setuptools.build_meta import build_wheel; build_wheel('dist')"


def test_the_wheel_holds_the_packages_and_what_they_read(tmp_path: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    folders = {"template", "sweeps", "prompts"}
    read = {path for path in files if path.suffix in (".c", ".h", ".toml") or folders & {*path.parts}}
    code = {path for path in files if path.suffix == ".py" and BENCH not in (ROOT / path).parents}
    assert held == {path.as_posix() for path in code | read} | {f"{name}/py.typed" for name in PACKAGES}
