"""Completion of commands, flags and their choices by the shell, with argcomplete."""

import argparse
import os
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Final

from eexit.errors import UsageError
from eexit.output.whole_files import write_whole

ASKED: Final = "_ARGCOMPLETE"  # set where a shell asks: how many words come before the flags, as argcomplete has it
READS: Final = {
    "bash": ".bashrc",
    "zsh": ".zshrc",
    "fish": ".config/fish/config.fish",
}  # what a shell reads at its start
BEFORE: Final = {"zsh": "(( $+functions[compdef] )) || { autoload -Uz compinit; compinit; }\n"}


def complete(parser: argparse.ArgumentParser) -> None:
    """If a shell asks how its line may go on, answer and end the process."""
    if ASKED in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def completed_command(names: Collection[str]) -> str | None:
    """The command whose flags a shell asks about; None if it doesn't ask. Asked about commands, it is answered."""
    if ASKED not in os.environ:
        return None
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    before = line.split()[1:] if line.endswith(" ") else line.split()[1:-1]
    if before and before[0] in names:
        os.environ[ASKED] = "2"
        return before[0]
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=sorted(names))
    for flag in ("--version", "--install-completion"):
        parser.add_argument(flag, action="store_true")
    complete(parser)
    return None


def install(shell: str) -> str:
    """Have a shell complete from its next start on; returns what was done. Raises `UsageError` for another shell."""
    from argcomplete import shell_integration
    from platformdirs import user_data_path

    if shell not in READS:
        raise UsageError(
            f"completion is for {', '.join(READS)}, and $SHELL names {shell or 'none'}: name one of them, as in "
            "SHELL=bash eexit --install-completion"
        )
    script, reads = user_data_path("eexit") / f"completion.{shell}", Path.home() / READS[shell]
    for path in (script, reads):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(script, BEFORE.get(shell, "") + shell_integration.shellcode(["eexit"], shell=shell))
    line = f"source {shlex.quote(str(script))}\n"
    if not reads.exists() or line not in reads.read_text():
        with reads.open("a") as file:
            file.write(f"\n{line}")
    return f"{reads} reads {script} from the next start of {shell} on"
