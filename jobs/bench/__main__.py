"""Measuring the engine's speed on this machine.

    python jobs/bench         the engine's speed, about five minutes on two CPU cores (--quick: one)
    python jobs/bench tables  no measurement: the tables of FINDINGS.md again, from the study's results

`python jobs/bench engine --help`, and so with each, lists its flags.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from cluster.console.command import command

PARTS = {"engine": "engine_speed", "tables": "tables"}


@command()
def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    part, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in PARTS else ("engine", arguments)
    measure: Callable[[Sequence[str]], int] = import_module(PARTS[part]).main
    return measure(rest)


if __name__ == "__main__":
    sys.exit(main())
