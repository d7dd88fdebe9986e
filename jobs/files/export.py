"""Export a sweep as training data: conversations with full depth's predictions for each token, as Parquet.

    eexit export results/mine --out data
    eexit export results/mine --out data --kl-factors 0.5 1 2
    eexit export results/mine --out data --configurations normal unfrozen/kl/1

Each row is a run: chat messages, token ids and, for each token, its exit layer, the KLs of all exitable layers, the
exit probabilities at each KL factor, and each layer's top tokens, as many as the sweep recorded (--record-top-k).
Failed runs are left out. Nothing in --out is replaced.
"""

import sys
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.flags import number, quiet_flag, study_parser
from eexit.output.display import open_display
from eexit.output.locations import inside, redact
from eexit.output.text import pluralize
from eexit.plan.configuration import NORMAL

KL_FACTORS = (0.5, 1.0, 2.0, 4.0)


@command("the sweep is unchanged, and the unfinished export was removed: start over")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit export`. Return 0 if the sweep was exported, 1 if it stopped, 2 for bad input."""
    parser = study_parser(__doc__, "folder or URI of a sweep")
    parser.add_argument("--out", required=True, help="folder or URI for the data; empty or new")
    keys = f"keys of configurations, as in the sweep's table (default: {NORMAL})"
    parser.several("--configurations", "KEY", keys, default=(NORMAL,))
    factors = f"KL factors to give exit probabilities at (default: {' '.join(f'{k:g}' for k in KL_FACTORS)})"
    parser.several("--kl-factors", "K", factors, type=number, default=KL_FACTORS)
    quiet_flag(parser)
    flags = parser.read(arguments)
    from eexit.studies.export import export

    chosen = tuple(dict.fromkeys(flags.configurations))
    n_done = export(flags.results, flags.out, chosen, flags.kl_factors, open_display(quiet=flags.quiet))
    print(f"{pluralize(n_done, 'conversation')} in {redact(flags.out)}; the columns' metadata describe them")
    files = redact(inside(flags.out, "*.parquet"))
    print(f'from datasets import load_dataset; load_dataset("parquet", data_files="{files}", split="train")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
