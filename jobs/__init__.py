"""The commands: thin scripts over `cluster` and `eexit`, and the sweeps and prompts that come with them.

`eexit sweep …`, which is installed with the packages, is `python jobs/sweep.py …`; so with every script in this folder,
and those in `files/`: `eexit export …`. What a command does is elsewhere: a script has its flags, and prints what came
of it. What it works with is imported once its flags are read, so that `--help`, or a mistake in a flag, takes no
seconds, and Ctrl-C meanwhile ends it in a line.
"""

import ast
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cluster.console.command import command
from cluster.console.parser import COMPLETES, Parser

FOLDER = Path(__file__).parent


@command()
def main(arguments: Sequence[str]) -> int:
    """The exit code of the script that the first argument names, which gets the others."""
    scripts = find_scripts()
    if COMPLETES in os.environ:
        arguments = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")[1:-1]
    name, *others = arguments or ["--help"]
    if name in scripts:
        if COMPLETES in os.environ:
            os.environ[COMPLETES] = "2"
        sys.argv = [f"eexit {name}", *others]  # as its help shows it
        code: int = import_module(module_of(scripts[name])).main(others)
        return code
    parser = Parser("Sweeps and prompts that come with it: jobs/sweeps")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=ArgumentParser)
    for each, path in scripts.items():
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        commands.add_parser(each, help=docstring.partition("\n")[0].replace("%", "%%"))
    parser.read([name, *others])
    return 0


def find_scripts() -> dict[str, Path]:
    """The script of each command, by its name."""
    paths = [path for folder in (FOLDER, FOLDER / "files") for path in folder.glob("[!_]*.py")]
    return {path.stem.replace("_", "-"): path for path in sorted(paths, key=lambda path: path.stem)}


def module_of(script: Path) -> str:
    """The name that a script is imported by."""
    return ".".join([__name__, *script.relative_to(FOLDER).with_suffix("").parts])
