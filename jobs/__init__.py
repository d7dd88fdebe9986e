"""The commands: thin scripts over `cluster` and `eexit`, and the sweeps and prompts that come with them.

`eexit sweep …`, which is installed with the packages, is `python jobs/sweep.py …`; so with every script in this folder,
and those in `files/`: `eexit export …`. What a command does is elsewhere: a script has its flags, and prints what came
of it. What it works with is imported once its flags are read, so that `--help`, or a mistake in a flag, takes no
seconds, and Ctrl-C meanwhile ends it in a line.
"""

import ast
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from cluster.console.command import command
from cluster.console.completion import completed_command, install
from eexit.errors import UsageError
from eexit.output.text import did_you_mean

FOLDER = Path(__file__).parent
WHERE = f"""eexit --version prints its version; with eexit --install-completion, Tab completes commands and flags.
Sweeps and prompts that come with it: {FOLDER}/sweeps"""


@command()
def main(arguments: Sequence[str]) -> int:
    """The exit code of the script that the first argument names, which gets the others."""
    scripts = find_scripts()
    name, *others = [asked] if (asked := completed_command(scripts)) else arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: eexit COMMAND …, as in: eexit sweep --help", listed(scripts), WHERE, sep="\n\n")
        return 0
    if name == "--version":
        from cluster.console.flags import installed_version

        print(f"eexit {installed_version()}")
        return 0
    if name == "--install-completion":
        print(install(Path(os.environ.get("SHELL", "")).name))
        return 0
    if name not in scripts:
        meant = did_you_mean(name, scripts, most=1)
        raise UsageError(f"there is no command {name}{f' ({meant})' if meant else ''}: eexit --help lists them")
    sys.argv = [f"eexit {name}", *others]  # as its help shows it
    code: int = import_module(module_of(scripts[name])).main(others)
    return code


def find_scripts() -> dict[str, Path]:
    """The script of each command, by its name."""
    paths = [path for folder in (FOLDER, FOLDER / "files") for path in folder.glob("[!_]*.py")]
    return {path.stem.replace("_", "-"): path for path in sorted(paths, key=lambda path: path.stem)}


def module_of(script: Path) -> str:
    """The name that a script is imported by."""
    return ".".join([__name__, *script.relative_to(FOLDER).with_suffix("").parts])


def listed(scripts: Mapping[str, Path]) -> str:
    """The commands, each with the first line of its script's docstring."""
    width = max(map(len, scripts)) + 4
    firsts = {
        name: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        for name, path in scripts.items()
    }
    return "\n".join(
        textwrap.fill(f"  {name:{width - 2}}{first}", shutil.get_terminal_size().columns, subsequent_indent=" " * width)
        for name, first in firsts.items()
    )
