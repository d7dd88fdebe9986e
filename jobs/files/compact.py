"""Copy a sweep's results into fewer, larger Parquet files; the original stays as it is.

    python jobs/files/compact.py results/mine --into results/merged
    python jobs/files/compact.py s3://bucket/mine --into s3://bucket/merged

The copy can be read, reported and continued like any sweep's results. Nothing is copied while a sweep writes to the
original, if its files are damaged, or if the place for the copy holds results, the original among them. If a run is
there twice, the row of the later attempt is copied. Further tables, such as timings, are copied as they are.
"""

import sys
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.flags import Parser, whole
from eexit.errors import UsageError
from eexit.output.text import counted

ROWS_PER_FILE = 20_000


@command("the original is unchanged, and the unfinished copy was removed: start over")
def main(arguments: Sequence[str]) -> int:
    """0: copied. 1: it stopped. 2: the input can't be used."""
    parser = Parser(__doc__)
    parser.add_argument("out", help="folder or URI of the sweep's results")
    parser.add_argument("--into", metavar="OUT", help="folder or URI for the copy; it must hold no results")
    parser.add_argument("--rows-per-file", type=whole, default=ROWS_PER_FILE, help="runs in each file, at least")
    flags = parser.read(arguments)
    if not flags.into:
        raise UsageError("--into is missing: give the folder or URI that the merged copy goes to")
    from eexit.results.compaction import compact
    from eexit.results.store.folder import open_store

    before, after = compact(open_store(flags.out), open_store(flags.into), flags.rows_per_file)
    print(f"{counted(before, 'file')} merged into {after:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
