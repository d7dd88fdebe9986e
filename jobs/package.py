"""Package a setting of a finished sweep: a folder that `model.generate` runs with.

    eexit package results/mine --chosen --out settings/mine
    eexit package results/mine --configuration frozen_residual/confidence/0.97 --out settings/mine
    eexit package results/mine --chosen --hub me/mine --out settings/mine     a repository for the Hub

In a script with a loaded model, three lines generate with exits:

    import eexit
    setting = eexit.load("settings/mine")
    output = model.generate(**inputs, custom_generate=setting)

The folder has the setting, copies of its artefacts, its certificate (`eexit choose`) and timings if there are any, and
a README. The command loads the model and generates a few of the sweep's texts again: in float32 they must be equal,
token for token. It replaces nothing in --out.
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
    """Run `eexit package`. Return 0 if the package was written, 1 if it stopped, 2 for bad input."""
    flags = read_flags(arguments)
    from eexit.custom_generate.description import call_to_load, describe_package
    from eexit.studies.packaging.package_setting import PackageArgs, package_setting

    wanted = PackageArgs(
        flags.results, flags.out, flags.configuration, flags.hub, flags.dtypes, flags.device, flags.trust_remote_code
    )
    package = package_setting(wanted, open_display(quiet=flags.quiet).say)
    print(describe_package(package))
    print(f"import eexit; model.generate(**inputs, custom_generate={call_to_load(package, flags.out, flags.use)})")
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.single("--configuration", "KEY", "key of the setting, as in the sweep's table")
    parser.switch("--chosen", "the setting that eexit choose selected last")
    parser.add_argument("--out", required=True, help="folder for the package; empty or new")
    parser.single("--hub", "NAME", "name of the Hub repository that the folder will be; adds custom_generate/")
    further = "dtypes to measure and allow besides the sweep's"
    parser.several("--dtypes", "DTYPE", further, choices=DTYPES)
    flags = study_flags(parser, arguments)
    if flags.chosen == (flags.configuration is not None):
        raise UsageError("give either --chosen or --configuration KEY: each selects the setting to package")
    return flags


if __name__ == "__main__":
    sys.exit(main())
