"""Export a sweep as training data: conversations, with what the full-depth model made of each token, as Parquet.

    python jobs/files/export.py results/mine --out data
    python jobs/files/export.py results/mine --out data --kl-factors 0.5 1 2
    python jobs/files/export.py results/mine --out data --configurations normal unfrozen/kl/1
    python jobs/files/export.py s3://bucket/mine --out s3://bucket/data

Each row is one run: prompt and answer as chat messages, and for each token its exit layer, the KLs of all exitable
layers, the chances to exit at each KL factor asked for, and the final layer's likeliest tokens with their
log-probabilities, as many as the sweep recorded (--record-top-k of jobs/sweep.py). README.md beside the data says what
each column is and how the data was made: complete it with a licence before you publish it.

Runs that ended in an error are left out, and of an unfinished sweep what has landed is exported; the card says how many
are missing. The sweep stays as it is, and nothing that is in --out is replaced.
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.display import open_display
from cluster.console.flags import number, study_parser
from eexit.output.locations import HIDDEN, inside, shown, without_secrets
from eexit.output.text import counted
from eexit.plan.configuration import NORMAL

KL_FACTORS = (0.5, 1.0, 2.0, 4.0)


@command("the sweep is unchanged, and the unfinished export was removed: start over")
def main(arguments: Sequence[str]) -> int:
    """0: exported. 1: it stopped. 2: the input can't be used."""
    flags = read_flags(arguments)
    from eexit.studies.export.dataset_card import CARD
    from eexit.studies.export.export import export

    asked = without_secrets(shlex.join(["python", "jobs/files/export.py", *arguments]))
    display = open_display(quiet=flags.quiet)
    done = export(flags.results, flags.out, flags.configurations, flags.kl_factors, asked, display)
    conversations = counted(done.runs.total(), "conversation")
    print(f"{conversations}, {counted(done.n_tokens, 'token')}, in {counted(len(done.files), 'file')}")
    if not done.n_top:
        print("the sweep recorded no top tokens (record_top_k 0): the lists of final_top_… are empty")
    print(f"what each column is: {shown(inside(flags.out, CARD))}")
    print(reading(flags.out))
    return 0


def reading(out: str) -> str:
    """The line of Python that reads what was exported to `out`; it shows no secrets of a URI."""
    from eexit.studies.export.dataset_card import DATA_FILES

    where = inside(out, DATA_FILES)
    public = shown(where).replace(f"{HIDDEN}@", "").removesuffix(f"?{HIDDEN}")
    hint = "" if public == where else "  # with storage_options for what else --out carries"
    return f'from datasets import load_dataset; load_dataset("parquet", data_files="{public}", split="train"){hint}'


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__, "folder or URI of a sweep")
    parser.add_argument("--out", required=True, help="folder or URI for the data; it must be empty, or not be there")
    keys = f"keys of configurations, as in the sweep's table (default: {NORMAL})"
    parser.several("--configurations", "KEY", keys, default=(NORMAL,))
    factors = f"KL factors to give exit probabilities at (default: {' '.join(f'{k:g}' for k in KL_FACTORS)})"
    parser.several("--kl-factors", "K", factors, type=number, default=KL_FACTORS)
    parser.add_argument("--quiet", action="store_true", help="show no progress, only results and problems")
    flags = parser.read(arguments)
    flags.configurations = tuple(dict.fromkeys(flags.configurations))
    return flags


if __name__ == "__main__":
    sys.exit(main())
