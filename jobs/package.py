"""Take a setting of a finished sweep home: a folder that other people's code runs with.

    python jobs/package.py results/mine --chosen --out settings/mine
    python jobs/package.py results/mine --configuration frozen_residual/confidence/0.97 --out settings/mine
    python jobs/package.py results/mine --chosen --hub me/mine --out settings/mine     a repository for the Hub

In a script with a model that is loaded already, three lines then generate with exits:

    import eexit
    setting = eexit.load("settings/mine")
    output = model.generate(**inputs, custom_generate=setting)

The folder has the setting, copies of what was trained for it, the guarantee of jobs/choose.py if it has one, what it
saved where it was timed, and a README. The model is loaded, and writes a few texts of the sweep again: in float32 they
must come out the same, token for token. Nothing that is in --out is replaced.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.flags import study_flags, study_parser
from eexit.errors import UsageError
from eexit.output.display import open_display

DTYPES = ("float32", "bfloat16", "float16")


@command("nothing was written: start over")
def main(arguments: Sequence[str]) -> int:
    """Return 0 if the package was written, 1 if it stopped, 2 for bad input."""
    flags = read_flags(arguments)
    from eexit.custom_generate.description import call_to_load, describe_package
    from eexit.studies.packaging.package_setting import PackageArgs, take_home

    wanted = PackageArgs(
        flags.results, flags.out, flags.configuration, flags.hub, flags.dtypes, flags.device, flags.trust_remote_code
    )
    taken = take_home(wanted, open_display(quiet=flags.quiet).say)
    print(describe_package(taken))
    print(f"import eexit; model.generate(**inputs, custom_generate={call_to_load(taken, flags.out)})")
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.add_argument("--configuration", metavar="KEY", help="the setting, as in the sweep's table")
    parser.add_argument("--chosen", action="store_true", help="the one that jobs/choose.py chose last")
    parser.add_argument("--out", required=True, help="folder for the setting; it must be empty, or not be there")
    parser.add_argument(
        "--hub", metavar="NAME", help="name of the repository on the Hub that the folder will be: adds custom_generate/"
    )
    further = "further precisions to measure the setting in, and to allow (default: the sweep's alone)"
    parser.several("--dtypes", "DTYPE", further, choices=DTYPES)
    flags = study_flags(parser, arguments)
    if flags.chosen == (flags.configuration is not None):
        raise UsageError("give either --chosen or --configuration KEY, which says which setting is taken home")
    return flags


if __name__ == "__main__":
    sys.exit(main())
