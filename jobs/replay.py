"""Replay settings on the texts of a finished sweep, to estimate their exits without running them.

    eexit replay results/mine --kl-factors 0.25:16:13             13 KL factors from 0.25 to 16
    eexit replay results/mine --kl-factors 0.5 1 2
    eexit replay results/mine --rules confidence=0.5:0.95:10 entropy=0.1:3:7 fixed=10,20
    eexit replay results/mine --rules confidence=0.9 --modes frozen_residual --texts-of unfrozen/confidence/0.9

A range LOW:HIGH:N is N values, spaced geometrically for KL factors and nats (kl, predicted_kl, entropy) and linearly
for the other rules.

Replays are teacher-forced: each token is decided given a text of another setting, by default normal. They estimate the
distance of exits from full depth, but not where the setting's own text would go. Replayed on its own texts, a setting
has the numbers of its runs in float32, and nearly these numbers in other dtypes.

Oracles in modes with an exact KV cache are replayed from the sweep's records, without the model. For other settings,
one Ray actor uses all CPUs of a node, or a whole GPU, and scores the texts: once for all thresholds of a rule if the
KV cache is exact, otherwise once per threshold.

Each call adds a file to the folder replays in the results after every setting or rule, so that Ctrl-C loses none.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from cluster.console.command import command
from cluster.console.flags import study_flags, study_parser
from eexit.method.rules import RULES
from eexit.output.display import open_display
from eexit.output.text import flag
from eexit.plan.configuration import EVERY, NORMAL, PERFECT
from eexit.plan.grids import parse_numbers, parse_rules
from eexit.plan.sweep_config import SweepConfig

REPLACED = {"readout": "READOUT", "probe": "FOLDER", "gate": "FOLDER", "kv_maps": "FOLDER", "screen": "WHAT"}


@command("the settings that were finished stay in replays")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit replay`. Return 0 if all configurations were replayed, 1 if it stopped before, 2 for bad input."""
    flags = read_flags(arguments)
    from cluster.studies.run import run_study
    from eexit.studies.replay.study import ReplayArgs, make_replay_plan

    kl_factors = parse_numbers(flags.kl_factors, RULES["kl"].unit, "--kl-factors")
    replaced = {name: given for name in REPLACED if (given := getattr(flags, name))}
    rules = parse_rules(flags.rules)
    asked = ReplayArgs(kl_factors, rules, flags.modes, flags.exit_sets, flags.gate_thresholds, replaced)
    plan = partial(make_replay_plan, asked=asked, text_of=flags.texts_of)
    display = open_display(quiet=flags.quiet)
    done = run_study(flags.results, plan, flags.device, display, trusts_code=flags.trust_remote_code)
    done.show(flags.results, columns=100)
    return 0


def threshold(text: str) -> str:
    """Return a probability, or `PERFECT`, as keys have it. Raise `ValueError` for other text."""
    return text if text == PERFECT else f"{float(text):g}"


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.several("--kl-factors", "K", "KL factors of rule kl: numbers or LOW:HIGH:N")
    parser.several(
        "--rules", "RULE",
        "rules with their parameters, as numbers with commas or as ranges: confidence=0.5:0.95:10 entropy=0.1,1",
    )  # fmt: skip
    modes = "modes (default: the sweep's; for oracles, those of the sweep with an exact KV cache)"
    parser.several("--modes", "MODE", modes)
    parser.several("--exit-sets", "LAYERS", "exit sets, as in 25 20,25 all (default: all)", default=(EVERY,))
    parser.single("--texts-of", "KEY", f"configuration whose texts are replayed ({NORMAL})", default=NORMAL)
    for name, of in REPLACED.items():
        parser.single(flag(name), of, f"in place of the sweep's: {SweepConfig.model_fields[name].description}")
    parser.several(
        "--gate-thresholds", "CHANCE",
        f"read a layer only if the gate predicts at least this exit probability; {PERFECT}: a gate without errors, the "
        "upper bound of any gate's savings", type=threshold,
    )  # fmt: skip
    return study_flags(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
