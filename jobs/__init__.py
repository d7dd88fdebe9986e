"""The commands: thin scripts over `cluster` and `eexit`, and the sweeps and prompts that come with them.

`eexit sweep …`, which is installed with the packages, is `python jobs/sweep.py …`; likewise for every script in this
folder and in `files/`: `eexit export …`. A script has its command's flags and prints the outcome; the work is done
elsewhere. It imports the modules for the work after reading its flags. So `--help`, or a mistake in a flag, takes no
seconds, and Ctrl-C meanwhile ends the command with one line.
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
    """Run the script that the first argument names with the other arguments; return its exit code."""
    scripts = find_scripts()
    if COMPLETES in os.environ:
        arguments = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")[1:-1]
    name, *others = arguments or ["--help"]
    if name in scripts:
        if COMPLETES in os.environ:
            os.environ[COMPLETES] = "2"
        sys.argv = [f"eexit {name}", *others]  # for the usage line
        code: int = import_module(module_of(scripts[name])).main(others)
        return code
    parser = Parser(f"Bundled sweeps and prompts: {FOLDER / 'sweeps'}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=ArgumentParser)
    for each, path in scripts.items():
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        commands.add_parser(each, help=docstring.partition("\n")[0].replace("%", "%%"))
    parser.read([name, *others])
    return 0


def find_scripts() -> dict[str, Path]:
    """Return the commands' scripts by name."""
    paths = [path for folder in (FOLDER, FOLDER / "files") for path in folder.glob("[!_]*.py")]
    return {path.stem.replace("_", "-"): path for path in sorted(paths, key=lambda path: path.stem)}


def module_of(script: Path) -> str:
    """Return the name by which a script is imported."""
    return ".".join([__name__, *script.relative_to(FOLDER).with_suffix("").parts])
