"""Edit a sweep's chains of thought into follow-up prompts, and measure whether answers need the chains.

    eexit chains results/steps --configuration normal --keep 0 50 100 --filler --out chains.jsonl
    eexit sweep --prompts chains.jsonl --thinking-until "(?i)answer:" … --out results/chains
    eexit chains results/steps --necessity results/chains

The first line writes prompts. Each has the edited chain of one of the sweep's texts as its prefiller, and the original
prompt's id as its group. Edits cut the chain to a share of its tokens (--keep 100: all, --keep 0: none) or after a
number of tokens (--budget), replace it by as many meaningless tokens (--filler), or reorder its sentences (--shuffle).
All edits end in the same closing words, the most common ones of the sweep, even if a chain never closed. Sweep the
prompts with the original's model, settings and thinking tags; prefill runs a prefiller at full depth unless
--prompt-exits is given.

The last line adds a table to the folder chains in the results: for each configuration in both sweeps, the share of
correct answers with the whole chain less the share with its edit (necessity), of all prompts and of those whose chain
closed by itself; and its differences from full depth and from its control (`eexit sweep --controls-of`). It reads
several sweeps of follow-up prompts together, such as one for the chains of each configuration.
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
    """Run `eexit chains`.

    Return 0 if the file or table was written, 1 if it stopped, 2 for bad input or an unwritable file.
    """
    flags = read_flags(arguments)
    if flags.necessity:
        from cluster.studies.run import run_study
        from eexit.studies.chains.necessity import COLUMNS, NecessityStudy

        plan = partial(NecessityStudy, follow_ups=flags.necessity)
        run_study(flags.results, plan, display=NullDisplay(), columns=COLUMNS).show(flags.results, columns=110)
        return 0
    from eexit.results.finished_sweep import read_finished
    from eexit.studies.chains.follow_ups import NEEDED, ChainEdits, follow_ups

    changes = ChainEdits(flags.keep, flags.budget, flags.filler, flags.shuffle)
    sweep = read_finished(flags.results, NEEDED, trusts_code=flags.trust_remote_code)
    prompts, n_bare = follow_ups(sweep, flags.configuration, changes)
    print(write_prompts(flags.out, prompts))
    if n_bare:
        print(f"{pluralize(n_bare, 'text')} had no chain, and neither have their follow-up prompts", file=sys.stderr)
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__)
    parser.single("--configuration", "KEY", "configuration that wrote the chains")
    shares = "shares of each chain to keep, from its start; --necessity needs 100"
    parser.several("--keep", "PERCENT", shares, type=per_cent)
    parser.several("--budget", "TOKENS", "lengths of the kept chain in tokens", type=whole)
    parser.switch("--filler", "replace each chain by as many meaningless tokens")
    parser.switch("--shuffle", "shuffle the sentences of each chain")
    parser.single("--out", "FILE", "a new .jsonl file for the prompts")
    parser.several("--necessity", "RESULTS", "sweeps of follow-up prompts: measure how much answers need the chains")
    trust_flag(parser)
    flags = parser.read(arguments)
    changes = flags.keep or flags.budget or flags.filler or flags.shuffle
    if flags.necessity and (flags.configuration or flags.out or changes):
        raise UsageError("--necessity reads sweeps, and the other flags write prompts: give one or the other")
    if not flags.necessity and not (flags.configuration and flags.out):
        raise UsageError("give --configuration and --out to write follow-up prompts, or --necessity to compare them")
    if not flags.necessity and not changes:
        raise UsageError("no edit selected: give --keep, --budget, --filler or --shuffle")
    return flags


if __name__ == "__main__":
    sys.exit(main())
