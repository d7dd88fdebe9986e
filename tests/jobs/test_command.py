"""`eexit NAME …`, the installed command, which is `python jobs/NAME.py …` from any folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import here, refusal
from ray_head import readme_lines

import jobs
from cluster.console.flags_from_config import load_job
from jobs import sweep, train

ROOT = Path(__file__).parents[2]
SCRIPTS = {  # by the names of the installed commands
    path.stem.replace("_", "-"): path for path in sorted((ROOT / "jobs").rglob("[!_]*.py")) if "bench" not in path.parts
}
PACKAGES = ("eexit", "cluster", "jobs", "reports")
EEXIT = "import sys; from jobs import main; sys.exit(main())"  # as the installed script has it
TAKE_LONG = ("torch", "transformers", "pandas", "ray", "altair", "scipy.stats", "scipy.special", "pyarrow")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(source)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [wheel] = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def test_the_wheel_holds_the_packages_and_what_they_read_at_run_time(installed: Path) -> None:
    held = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    files = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    folders = {("reports", "template"), ("jobs", "sweeps")}
    read = {path for path in files if path.suffix in (".c", ".h", ".toml", ".ipynb") or path.parts[:2] in folders}
    code = {path for path in files if path.suffix == ".py" and path.parts[:2] != ("jobs", "bench")}
    made = {path for path in held if "__pycache__" in path.parts or ".dist-info" in path.parts[0]}
    assert held - made == code | read | {Path(name, "py.typed") for name in PACKAGES}


def ended(arguments: list[str]) -> int:
    """Return the exit code where a command ends the process, as --help does."""
    with pytest.raises(SystemExit) as raised:
        jobs.main(arguments)
    return int(str(raised.value.code or 0))


def test_it_lists_every_script_and_tells_the_nearest_of_an_unknown_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(ended)
    assert (done.returncode, done.stdout) == (0, here(ended, "--help").stdout)
    listed = " ".join(done.stdout.split())
    for name, path in SCRIPTS.items():
        first = path.read_text().removeprefix('"""').partition("\n")[0]
        assert f" {name} {first}" in listed
    assert f"Bundled sweeps and prompts: {ROOT / 'jobs' / 'sweeps'} Options: " in listed
    for name, told in {
        "swep": "argument COMMAND: invalid choice: 'swep' (did you mean sweep?): --help lists the flags",
        "make_prompts": "(did you mean make-prompts?)",
        "xyz": "invalid choice: 'xyz' (choose from ",
        "--all": "unrecognized arguments: --all",
    }.items():
        assert told in refusal(jobs.main, name)


def test_the_first_example_of_training_runs_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = next(line for line in (train.__doc__ or "").splitlines() if line.endswith(" --out results/texts"))
    assert len(load_job(example.split()[2:], sweep.DEMO)[0].config.prompts) > 100, "bundled ones"


def test_the_shell_completes_commands_flags_and_choices(tmp_path: Path) -> None:
    command = tmp_path / "eexit"
    command.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c '{EEXIT}' \"$@\"\n")
    command.chmod(0o755)
    [read] = re.findall("`(eval [^`]*)`", (ROOT / "README.md").read_text())
    environment = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("XDG_DATA_HOME", None)
    printing = '_python_argcomplete eexit; printf "%s\\n" "${COMPREPLY[@]}"'
    for line, expected in {
        "eexit swe": "sweep",
        "eexit choose results --ri": "--risk",
        "eexit choose results --risk ": "answers disagreement judge perplexity",
        "eexit make-prompts --o": "--out",
    }.items():
        asking = f'{read}; COMP_LINE="{line}"; COMP_POINT={len(line)}; COMP_TYPE=9; {printing}'
        done = subprocess.run(["bash", "-c", asking], env=environment, capture_output=True, text=True)
        assert sorted(done.stdout.split()) == expected.split(), done.stderr


def test_each_command_has_help_and_starts_in_no_time_without_what_only_unix_has(tiny: Path, tmp_path: Path) -> None:
    """Help and a mistake in a flag import nothing that takes long, a plan no torch, and a sweep says so before Ray."""
    flags = ["sweep", "--exit-every", "2", "--model", str(tiny), "--out", str(tmp_path / "out")]
    here(sweep.main, *flags[1:], "--dry-run")  # which stores what is found out about the model
    code = (
        "import os, signal, sys, types",
        "del signal.SIGHUP, os.sched_getaffinity",
        "sys.modules |= dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp', 'termios'))",
        "import jobs",
        "sys.argv, sys.stderr = ['eexit'], sys.stdout",
        f"for name in {[*SCRIPTS]}:",
        "    assert jobs.main([name, '--nonsense']) == 2",
        "    try: jobs.main([name, '--help'])",
        "    except SystemExit: print(end='\\0')",
        f"    assert not [each for each in {TAKE_LONG} if each in sys.modules], name",
        "import reports.page.build",
        f"assert jobs.main({[*flags, '--dry-run']}) == 0 and 'torch' not in sys.modules",
        "def write(text): print(end=f'\\0{text}', flush=True); os._exit('ray' in sys.modules)",
        "sys.stderr = types.SimpleNamespace(isatty=lambda: False, write=write)",
        f"jobs.main({flags})",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *parts, plan, begun = done.stdout.split("\0")
    assert ("runs            27" in plan, begun) == (True, "importing Ray")
    for (name, path), said in zip(SCRIPTS.items(), parts, strict=True):
        error, _, text = said.partition("\n")
        assert error.startswith("error: ")
        assert text.startswith(f"Usage: eexit {name} ")
        assert f"\n    eexit {name} " in text
        assert "python jobs/" not in text.replace("--working-dir . -- python jobs/sweep.py", "")  # a Ray job
        assert path.read_text().endswith('\nif __name__ == "__main__":\n    sys.exit(main())\n')
    assert [line for line in readme_lines() if line.partition("   #")[0] not in (sweep.__doc__ or "")] == []


def test_the_installed_command_runs_from_any_folder(installed: Path, tiny: Path, tmp_path: Path) -> None:
    def called(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "100"}
        line = [sys.executable, "-c", EEXIT, *arguments]
        return subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)

    planned = "sweep", "--dry-run", "--model", str(tiny), "--exit-layers", "1", "--rules", "confidence=0.9"
    here(sweep.main, *planned[1:])  # so that what is found out about the model is kept, and no process imports torch
    demo = called(*planned)
    assert f"3 from {installed}/jobs/sweeps/prompts/demo.jsonl\n" in demo.stdout, demo.stderr
    flags = "--config", f"{installed}/jobs/sweeps/study.toml", "--controls-of", "", "--exit-sets", "all"
    study = called(*planned, *flags)
    prompts = f"200 from {installed}/jobs/sweeps/prompts/study.jsonl: 8 kinds, 183 with answers\n"
    assert prompts in study.stdout, study.stderr
    (tmp_path / "early_exit_analysis.json").write_text('[{"prompt": "?", "results": []}]')
    report = called("report", "early_exit_analysis.json")
    assert (report.stdout, report.stderr) == ("early_exit_analysis.html\n", "")
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "[console_scripts]\neexit = jobs:main" in entry_points
    assert "[eexit.report_builders]\nhtml = reports:build_report" in entry_points
