"""Follow-up prompts of a finished sweep with its chains of thought, and whether its answers needed them.

    python jobs/files/chains.py results/steps --configuration normal --keep 0 50 --filler --out chains.jsonl
    python jobs/sweep.py --prompts chains.jsonl --thinking-until "(?i)answer:" … --out results/chains
    python jobs/files/chains.py results/steps --necessity results/chains

The first line writes prompts, each with the chain of one of the sweep's texts as its prefiller, and with the original's
id as its group: cut to a share of its tokens (--keep 0: none) or after so many (--budget) and closed, as many tokens
without meaning in its place (--filler), or its sentences in another order (--shuffle). They are swept like any others,
with what the sweep had: its model, its settings and what marks its chains; a prefiller is read at full depth.

The last line adds a table to the folder chains beside the results: right answers with the chain that was written less
those with what follow-up prompts had in its place, for each configuration that is in both sweeps, and how that differs
from its control (--controls-of of jobs/sweep.py). Several sweeps of follow-up prompts are read together.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from cluster.console.command import command
from cluster.console.flags import per_cent, study_parser, trust_flag, whole
from eexit.errors import UsageError
from eexit.output.progress import NullDisplay
from eexit.output.text import pluralize
from jobs.files.make_prompts import write_prompts


@command()
def main(arguments: Sequence[str]) -> int:
    """Return 0 if the file or table was written, 1 if it stopped, 2 for bad input or an unwritable file."""
    flags = read_flags(arguments)
    if flags.necessity:
        from cluster.studies.run import run_study
        from eexit.studies.chains.study import COLUMNS, NecessityStudy

        plan = partial(NecessityStudy, follow_ups=flags.necessity)
        run_study(flags.results, plan, display=NullDisplay(), columns=COLUMNS).show(flags.results, columns=110)
        return 0
    from eexit.results.finished_sweep import read_finished
    from eexit.studies.chains.follow_ups import NEEDED, ChainEdits, follow_ups

    changes = ChainEdits(flags.keep, flags.budget, flags.filler, flags.shuffle)
    sweep = read_finished(flags.results, NEEDED, trusts_code=flags.trust_remote_code)
    prompts, n_bare = follow_ups(sweep, flags.configuration, flags.chains_of or flags.configuration, changes)
    print(write_prompts(flags.out, prompts))
    if n_bare:
        print(
            f"{pluralize(n_bare, 'text')} had no chain, so that their follow-up prompts have none either",
            file=sys.stderr,
        )
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.add_argument("--configuration", metavar="KEY", help="follow up the prompts that it answered, and its chains")
    parser.add_argument("--from", dest="chains_of", metavar="KEY", help="take the chains that this one wrote instead")
    parser.several("--keep", "PERCENT", "keep so much of each chain, from its start", type=per_cent)
    parser.several("--budget", "TOKENS", "end each chain after so many tokens", type=whole)
    parser.add_argument("--filler", action="store_true", help="as many tokens without meaning in place of each chain")
    parser.add_argument("--shuffle", action="store_true", help="the sentences of each chain in another order")
    parser.add_argument("--out", metavar="FILE", help="a new .jsonl file for the prompts")
    parser.several("--necessity", "RESULTS", "sweeps of follow-up prompts: how much the answers need the chains")
    trust_flag(parser)
    flags = parser.read(arguments)
    changes = flags.keep or flags.budget or flags.filler or flags.shuffle
    if flags.necessity and (flags.configuration or flags.chains_of or flags.out or changes):
        raise UsageError("--necessity reads sweeps, and all other flags write prompts: give one or the other")
    if not flags.necessity:
        if not (flags.configuration and flags.out):
            raise UsageError(
                "give --configuration and --out to write follow-up prompts, or --necessity to compare them"
            )
        if not changes:
            raise UsageError("nothing is to become of the chains: give --keep, --budget, --filler or --shuffle")
    return flags


if __name__ == "__main__":
    sys.exit(main())
