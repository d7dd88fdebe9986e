"""Train exits on the texts of a finished sweep, or go on with a training that was stopped.

    python jobs/sweep.py --prompts jobs/sweeps/prompts/questions.jsonl --modes normal --observe none --out results/texts
    python jobs/train.py results/texts --what linear --out exits/linear          a readout: minutes, in closed form
    python jobs/train.py results/texts --what tuned --out exits/tuned            a readout: the tuned lens
    python jobs/train.py results/texts --what probe --readout exits/linear --out exits/probe       of KLs through it
    python jobs/train.py results/texts --what gate --rules confidence=0.97 --readout exits/linear --out exits/gate
    python jobs/train.py results/texts --what student --kl-factor 1 --out exits/student            a LoRA adapter
    python jobs/train.py results/texts --what state --out exits/state            what exits leave, in closed form

Exits learn from the texts of the sweep's normal runs that went well. One prompt in five is held out, by a hash of its
text: nothing is learned from it, and what was learned is measured on it. One Ray actor has all CPUs of a node, or a
whole GPU, for itself. Ctrl-C keeps what was learned, and the same command goes on from there.

The artefact is a folder: card.json says what it was made from and how good it is on the held-out prompts. Use it with
--readout, --probe, --gate, --adapter or --state of jobs/sweep.py.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import Console

from cluster.console.command import command
from cluster.console.display import open_display
from cluster.console.flags import layer, seed, study_flags, study_parser, whole
from eexit.method.rules import shown
from eexit.output.text import flag
from eexit.plan.grids import parse_rules
from eexit.plan.prompts import read_prompts
from eexit.training.setup import AUTO, LAYERS_LOSS, LOSSES, STATE_FORMS, WAYS, TrainingOptions


@command("what was learned and saved stays: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """0: the artefact is there. 1: it stopped before. 2: the input can't be used."""
    flags = read_flags(arguments)
    from cluster.studies.training import train_exits
    from eexit.training.plan import WhatToTrain
    from eexit.training.tables import how_to_use, training_tables

    prompts = read_prompts(flags.prompts) if flags.prompts else ()
    asked = WhatToTrain(flags.what, flags.out, prompts, options=options_of(flags))
    display = open_display(quiet=flags.quiet)
    card = train_exits(flags.results, asked, flags.device, display, trusts_code=flags.trust_remote_code)
    console = Console()
    for table in training_tables(card):
        console.print(table)
    print(how_to_use(card, flags.out))
    return 0


def options_of(flags: Namespace) -> dict[str, Any]:
    """The options that were given, by their names in `eexit.training.setup.TrainingOptions`."""
    names = [name for name in TrainingOptions.__dataclass_fields__ if name != "what"]
    given = {name: getattr(flags, name) for name in names}
    if flags.form == AUTO:
        given["form"] = None
    if flags.rules:
        given["rules"] = [
            f"{rule}/{shown(parameter)}"
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
        help="for a probe, a gate or state maps: what layers are read through: lens, raw or a folder (default: lens)",
    )
    parser.several("--rules", "RULE", "for a gate: rules that read layers, as in confidence=0.9,0.97", default=None)
    for name, value_type, text in SETTINGS:
        parser.add_argument(flag(name), type=value_type, metavar="N", help=f"{text} (default: {defaults_of(name)})")
    forms = ", ".join(STATE_FORMS)
    parser.add_argument("--form", metavar="FORM", help=f"of state maps: {forms}, or auto for the better (default)")
    targets = "modules that a student's adapter changes, or all-linear"
    parser.several("--lora-targets", "MODULE", targets, default=None)
    every = "a student learns in all weights of its layers, which takes four times their memory, not in an adapter"
    parser.add_argument("--full", action="store_true", default=None, help=every)
    parser.add_argument("--loss", metavar="LOSS", help=f"of a student: {', '.join(LOSSES)} (default: {LAYERS_LOSS})")
    return study_flags(parser, arguments)


SETTINGS: Final[Sequence[tuple[str, Callable[[str], float], str]]] = (
    ("passes", whole, "passes over the texts"),
    ("tokens_per_step", whole, "tokens that a step learns from"),
    ("learning_rate", float, "the optimiser's learning rate"),
    ("most_tokens", whole, "tokens to learn from at most, repeats included"),
    ("most_minutes", float, "minutes to learn for at most"),
    ("kl_factor", float, "KL factor of the exits that a student is trained with"),
    ("in_state", float, "share of a student's steps that learn at drawn exits, from what these leave behind"),
    ("until", float, "points of agreement: a student ends where twice the tokens gain fewer"),
    ("lora_r", whole, "rank of a student's adapter"),
    ("lora_alpha", whole, "scale of a student's adapter"),
    ("lora_layers", whole, "how many layers a student's adapter changes, from the first on"),
    ("rank", whole, "rank of state maps"),
    ("rounds", whole, "rounds of fitting state maps, all but the first to runs with those of the round before"),
    ("seed", seed, "of everything that is drawn"),
)


def defaults_of(name: str) -> str:
    """A setting's defaults, by what is trained."""
    default = TrainingOptions.__dataclass_fields__[name].default
    if default is not None:
        return str(default)
    by_what = {what: way.defaults[name] for what, way in WAYS.items() if name in way.defaults}
    by_what |= {f"--loss {loss}": suits[name] for loss, suits in LOSSES.items() if name in suits}
    return ", ".join(f"{_listed(value)} for {what}" for what, value in by_what.items()) or "no limit"


def _listed(value: float | Sequence[int]) -> str:
    return f"{value:,}" if isinstance(value, int | float) else " ".join(map(str, value))


if __name__ == "__main__":
    sys.exit(main())
