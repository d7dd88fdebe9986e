"""`eexit NAME …`, the installed command, which is `python jobs/NAME.py …` from any folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import here, refusal
from ray_head import readme_lines

import jobs
from cluster.console.flags_from_config import load_job
from jobs import sweep, train

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT / "jobs").with_suffix("").as_posix()
    for path in (ROOT / "jobs").rglob("[!_]*.py")
    if "bench" not in path.parts
)
PACKAGES = ("eexit", "cluster", "jobs", "reports")
EEXIT = "import sys; from jobs import main; sys.exit(main())"  # as the installed script has it
TAKE_LONG = ("torch", "transformers", "pandas", "ray", "altair", "scipy.stats", "scipy.special", "pyarrow")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as it is where packages are installed."""
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
    """And the `py.typed` markers; not what measures a clone."""
    held = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    files = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    folders = {("reports", "template"), ("jobs", "sweeps")}
    read = {path for path in files if path.suffix in (".c", ".h", ".toml", ".ipynb") or path.parts[:2] in folders}
    code = {path for path in files if path.suffix == ".py" and path.parts[:2] != ("jobs", "bench")}
    made = {path for path in held if "__pycache__" in path.parts or ".dist-info" in path.parts[0]}
    assert held - made == code | read | {Path(name, "py.typed") for name in PACKAGES}


def called(*arguments: str, packages: Path = ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the packages from there."""
    environment = os.environ | {"PYTHONPATH": str(packages), "COLUMNS": "100"}
    line = [sys.executable, "-c", EEXIT, *arguments]
    return subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_it_lists_every_script_with_the_first_line_of_its_docstring(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(ending, *arguments)
    assert done.returncode == 0
    listed = " ".join(done.stdout.split())
    for script in SCRIPTS:
        first = (ROOT / "jobs" / f"{script}.py").read_text().removeprefix('"""').partition("\n")[0]
        assert f" {named(script)} {first}" in listed
    assert f"Bundled sweeps and prompts: {ROOT / 'jobs' / 'sweeps'} Options: " in listed
    assert listed.count(str(ROOT)) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_command_says_how_it_is_called(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["eexit"])
    name = named(script)
    said = here(ending, name, "--help").stdout
    assert said.startswith(f"Usage: eexit {name} ")
    assert f"\n    eexit {name} " in said
    assert "python jobs/" not in said.replace("--working-dir . -- python jobs/sweep.py", "")  # a Ray job
    refusal(jobs.main, name, "--nonsense")


@pytest.mark.parametrize("argv", ["eexit train", "jobs/train.py"])
def test_the_first_example_of_training_runs_from_any_folder(
    argv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sweeps bundled prompts; the help is the same for `eexit train` and for the script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [argv])
    said = here(ending_of(train.main), "--help").stdout
    example = next(line.split() for line in said.splitlines() if line.endswith(" --out results/texts"))
    assert example[:2] == ["eexit", "sweep"]
    job, _ = load_job(example[2:], sweep.DEMO)
    assert len(job.config.prompts) > 100


def test_help_of_a_sweep_has_the_lines_for_a_cluster_that_are_tested() -> None:
    """`test_submit.py` runs those of `cluster/README.md`, also where Ray has left a token."""
    assert [line for line in readme_lines() if line.partition("   #")[0] not in (sweep.__doc__ or "")] == []


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home folder in which bash completes the command, and the environment of one who is at home there."""
    folder = tmp_path_factory.mktemp("completing")
    for name in ("home", "bin"):
        (folder / name).mkdir()
    command = folder / "bin" / "eexit"
    command.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c '{EEXIT}' \"$@\"\n")
    command.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(folder / "home"), "SHELL": "/bin/bash", "PATH": path}
    environment.pop("XDG_DATA_HOME", None)
    [line] = re.findall("`(eval [^`]*)`", (ROOT / "README.md").read_text())
    (folder / "home" / ".bashrc").write_text(f"{line}\n")
    return folder / "home", environment


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("eexit swe", {"sweep"}),
        ("eexit choose results --ri", {"--risk"}),
        ("eexit choose results --risk ", {"answers", "disagreement", "judge", "perplexity"}),
        ("eexit make-prompts --o", {"--out"}),
    ],
)
def test_the_shell_completes_commands_flags_and_choices(
    completing: tuple[Path, dict[str, str]], line: str, expected: set[str]
) -> None:
    """A real bash reads README's line, and then asks the command."""
    home, environment = completing
    asking = (
        f'source {home}/.bashrc; COMP_LINE="{line}"; COMP_POINT={len(line)}; COMP_TYPE=9; '
        '_python_argcomplete eexit; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asking], env=environment, capture_output=True, text=True)
    assert {word.strip() for word in done.stdout.splitlines()} == expected, done.stderr


def test_neither_help_nor_a_mistake_in_a_flag_imports_what_takes_long() -> None:
    """Of all commands, in a process that imports nothing else: the first that imports something is the first named."""
    names = [named(script) for script in SCRIPTS]
    lines = (
        "import sys, jobs",
        f"for name in {names}:",
        "    assert jobs.main([name, '--nonsense']) == 2",
        "    try: jobs.main([name, '--help'])",
        "    except SystemExit: pass",
        f"    if found := [each for each in {TAKE_LONG} if each in sys.modules]: sys.exit(f'{{name}}: {{found}}')",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(names)


def test_commands_start_where_the_system_lacks_what_only_unix_has(tiny: Path, tmp_path: Path) -> None:
    flags = ["--dry-run", "--exit-every", "2", "--model", str(tiny), "--out", str(tmp_path / "out")]
    lines = (
        "import os, signal, sys",
        "del signal.SIGHUP, os.sched_getaffinity",
        "sys.modules |= dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp', 'termios'))",
        "import jobs, reports.page.build",
        f"for name in {[named(script) for script in SCRIPTS]}:",
        "    assert jobs.main([name, '--nonsense']) == 2",
        f"sys.argv[1:] = {['sweep', *flags]}",
        "sys.exit(jobs.main())",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "runs            27" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_is_the_command_of_its_process(script: str) -> None:
    """With the command line's arguments and the process's signals, as `cluster.console.command` has it."""
    assert (ROOT / "jobs" / f"{script}.py").read_text().endswith('\nif __name__ == "__main__":\n    sys.exit(main())\n')


def named(script: str) -> str:
    """What the installed command calls a script, wherever it is."""
    return script.rpartition("/")[2].replace("_", "-")


def ending_of(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """A command, which returns where it would end the process, as --help does."""

    def ended(arguments: list[str]) -> int:
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        return int(str(raised.value.code or 0))

    return ended


ending = ending_of(jobs.main)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("swep", "error: argument COMMAND: invalid choice: 'swep' (did you mean sweep?): --help lists the flags"),
        ("make_prompts", "(did you mean make-prompts?)"),
        ("xyz", "argument COMMAND: invalid choice: 'xyz' (choose from "),  # with or without quotes, by Python's version
        ("--all", "unrecognized arguments: --all"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest_name(name: str, told: str) -> None:
    assert told in refusal(jobs.main, name)


def test_the_installed_command_runs_from_any_folder(installed: Path, tiny: Path, tmp_path: Path) -> None:
    """What comes with it is read where it is installed: the demo's TOML, prompts that a TOML names, and templates."""
    planned = "sweep", "--dry-run", "--model", str(tiny), "--exit-layers", "1", "--rules", "confidence=0.9"
    here(sweep.main, *planned[1:])  # so that what is found out about the model is kept, and no process imports torch
    demo = called(*planned, packages=installed, cwd=tmp_path)
    assert f"3 from {installed}/jobs/sweeps/prompts/demo.jsonl\n" in demo.stdout, demo.stderr
    flags = "--config", f"{installed}/jobs/sweeps/study.toml", "--controls-of", "", "--exit-sets", "all"
    study = called(*planned, *flags, packages=installed, cwd=tmp_path)
    assert f"200 from {installed}/jobs/sweeps/prompts/study.jsonl: 8 kinds, 183 with answers\n" in study.stdout, (
        study.stderr
    )
    (tmp_path / "early_exit_analysis.json").write_text('[{"prompt": "?", "results": []}]')
    report = called("report", "early_exit_analysis.json", packages=installed, cwd=tmp_path)
    assert (report.stdout, report.stderr) == ("early_exit_analysis.html\n", "")
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "[console_scripts]\neexit = jobs:main" in entry_points
    assert "[eexit.report_builders]\nhtml = reports:build_report" in entry_points
