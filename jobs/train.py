"""Train exits on the texts of a finished sweep, or go on with a training that was stopped.

    python jobs/sweep.py --prompts jobs/sweeps/prompts/questions.jsonl --modes normal --record-full-depth none --out
    results/texts python jobs/train.py results/texts --what linear --out exits/linear          a readout
    python jobs/train.py results/texts --what probe --readout exits/linear --out exits/probe       of KLs through it
    python jobs/train.py results/texts --what gate --rules confidence=0.97 --readout exits/linear --out exits/gate
    python jobs/train.py results/texts --what kv-maps --out exits/state            what exits leave

All of them are regressions in closed form, from sums over the texts of the sweep's normal runs that went well. One
prompt in five is held out, by a hash of its text: nothing is learned from it, and what was learned is measured on it.
One Ray actor has all CPUs of a node, or a whole GPU, for itself. Ctrl-C keeps the sums, and the same command goes on.

The artefact is a folder: card.json says what it was fitted to and how good it is on the held-out prompts. Use it with
--readout, --probe, --gate or --kv-maps of jobs/sweep.py. With --adapter, it is fitted to the model with an adapter,
such as jobs/files/student.py trains, and used with that.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from cluster.console.command import command
from cluster.console.flags import layer, study_flags, study_parser
from eexit.method.rules import format_parameter
from eexit.output.display import open_display
from eexit.plan.grids import parse_rules
from eexit.plan.prompts import read_prompts
from eexit.training.trainer_inputs import WAYS


@command("what was learned and saved stays: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """Return 0 if the artefact is written, 1 if it stopped before, 2 for bad input."""
    flags = read_flags(arguments)
    from cluster.studies.training import train_exits
    from eexit.training.plan import TrainArgs
    from eexit.training.training_table import how_to_use, training_table

    prompts = read_prompts(flags.prompts) if flags.prompts else ()
    asked = TrainArgs(flags.what, flags.out, prompts, options=options_of(flags))
    display = open_display(quiet=flags.quiet)
    card = train_exits(flags.results, asked, flags.device, display, trusts_code=flags.trust_remote_code)
    console = Console()
    console.print(training_table(card))
    print(how_to_use(card, flags.out))
    return 0


def options_of(flags: Namespace) -> dict[str, Any]:
    """Return the given options by their names in `eexit.training.plan.TrainArgs`."""
    given = {"layers": flags.layers, "readout": flags.readout, "adapter": flags.adapter}
    if flags.rules:
        given["rules"] = [
            f"{rule}/{format_parameter(parameter)}"
            for rule, parameters in parse_rules(flags.rules).items()
            for parameter in parameters
        ]
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__, "folder or URI of a finished sweep that has mode normal")
    parser.add_argument("--what", required=True, help=f"what to train: {', '.join(WAYS)}")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the artefact goes")
    parser.add_argument("--prompts", metavar="FILE", help="more prompts, whose texts are generated first")
    layers = "exitable layers (default: the sweep's)"
    parser.several("--exit-layers", "LAYER", layers, dest="layers", type=layer, default=None)
    parser.add_argument(
        "--readout",
        metavar="READOUT",
        help="for a probe, a gate or KV maps: what layers are read through: lens, raw or a folder (default: lens)",
    )
    parser.several("--rules", "RULE", "for a gate: rules that read layers, as in confidence=0.9,0.97", default=None)
    parser.add_argument(
        "--adapter", metavar="FOLDER", help="an adapter: what is trained is fitted to the model with it"
    )
    return study_flags(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
