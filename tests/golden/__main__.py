"""Record what the scripts give on small models as named digests, or compare with such a record.

    python tests/golden --record before.json      two to three minutes on two CPU cores
    python tests/golden --compare before.json     prints the names of what differs by now; nothing: all is equal
    python tests/golden --record tests/golden/golden.json --everywhere

A record holds for the machine that it was made on, with the packages that it had, since rounding differs between
CPUs. With --everywhere, it only holds what does not depend on rounding, and is shorter: tests/golden/golden.json is
such a record, with which the tests compare. To see whether a change of the code changes results, record on its parent
and compare on it, on the same machine.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from golden.digests import differences, everywhere, read, write
from golden.recording import recorded


def main() -> int:
    """0: recorded, or equal. 1: something differs."""
    parser = argparse.ArgumentParser(
        prog="golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE", help="write a record")
    what.add_argument("--compare", type=Path, metavar="FILE", help="compare with a record")
    parser.add_argument("--everywhere", action="store_true", help="record only what is the same on all machines")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write what the digests are of to this folder")
    flags = parser.parse_args()
    before = read(flags.compare) if flags.compare else {}
    now = recorded(flags.keep)
    if flags.record:
        write(flags.record, everywhere(now) if flags.everywhere else now)
        return 0
    differ = differences(before, now)
    print("".join(f"{name}\n" for name in differ), end="")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
