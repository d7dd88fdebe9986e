"""Train artefacts for exits on a finished sweep's texts, or resume a training.

    eexit sweep --prompts jobs/sweeps/prompts/questions.jsonl --modes normal --record-full-depth none --out results/texts
    eexit train results/texts --what linear --out exits/linear          a readout
    eexit train results/texts --what probe --readout exits/linear --out exits/probe       of KLs through this readout
    eexit train results/texts --what gate --rules confidence=0.97 --readout exits/linear --out exits/gate
    eexit train results/texts --what kv-maps --out exits/kv_maps        KV maps

Each training is a regression in closed form, from moments over the texts of successful runs in mode normal. One prompt
in five, by a hash of its text, is held out for the evaluation. One Ray actor has all CPUs of a node, or a whole GPU,
for itself. Ctrl-C keeps the moments, and the same command resumes.

The artefact is a folder: card.json records the training data and the held-out results. Sweeps use it by --readout,
--probe, --gate or --kv-maps; the last printed line is such a sweep. With --adapter, the artefact is fitted to the model
with this adapter, such as one from `eexit student`, and used with it.
"""  # noqa: E501

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


@command("the saved moments stay: the same command resumes from them")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit train`. Return 0 if the artefact is written, 1 if it stopped before, 2 for bad input."""
    flags = read_flags(arguments)
    from cluster.studies.training import train_exits
    from eexit.training.plan import TrainArgs
    from eexit.training.training_table import sweep_command, training_table

    prompts = read_prompts(flags.prompts) if flags.prompts else ()
    asked = TrainArgs(flags.what, flags.out, prompts, options_of(flags), further_flags(flags))
    display = open_display(quiet=flags.quiet)
    card = train_exits(flags.results, asked, flags.device, display, trusts_code=flags.trust_remote_code)
    console = Console()
    console.print(training_table(card))
    print(sweep_command(card, flags.out, given_to_sweep(flags)))
    return 0


def further_flags(flags: Namespace) -> list[str]:
    """Return the flags, as given, that a training again needs besides `--what`, `--out` and `--exit-layers`."""
    prompts = ["--prompts", flags.prompts] if flags.prompts else []
    return [*prompts, *(["--rules", *flags.rules] if flags.rules else []), *given_to_sweep(flags)]


def given_to_sweep(flags: Namespace) -> list[str]:
    """Return the training's flags that a sweep with the new artefact needs too."""
    names = ("readout", "adapter")
    words = [word for name in names if getattr(flags, name) for word in (f"--{name}", getattr(flags, name))]
    trusted = ["--trust-remote-code"] if flags.trust_remote_code else []
    return [*words, *(["--use", *flags.use] if flags.use else []), *trusted]


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
    parser.single("--out", "FOLDER", "folder of the artefact", required=True)
    parser.single("--prompts", "FILE", "further training prompts, whose texts are generated first")
    layers = "exitable layers (default: the sweep's)"
    parser.several("--exit-layers", "LAYER", layers, dest="layers", type=layer, default=None)
    readouts = "for a probe, a gate or KV maps: the readout: lens, raw or a folder (default: lens)"
    parser.single("--readout", "READOUT", readouts)
    parser.several("--rules", "RULE", "for a gate: the rules that it gates, as in confidence=0.9,0.97", default=None)
    parser.single("--adapter", "FOLDER", "adapter of the model that the artefact is fitted to")
    return study_flags(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
