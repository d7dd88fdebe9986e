"""Copy a sweep's results into fewer, larger Parquet files; the original stays as it is.

    python jobs/compact.py results/mine --into results/merged
    python jobs/compact.py s3://bucket/mine --into s3://bucket/merged

The copy is a sweep's results like any other: it can be read, reported, and gone on with. Refused while a sweep is
writing to the original, where its files are damaged, and where the place for the copy holds results already. Of a run
that is there twice, the later attempt's row is copied.
"""

import sys
from collections.abc import Sequence

from cluster import interruption
from cluster.compaction import compact
from cluster.flags import Parser, whole
from cluster.store import open_store
from eexit.config import UsageError, first_line
from eexit.places import without_secrets

ROWS_PER_FILE = 20_000


@interruption.listening()
def main(arguments: Sequence[str]) -> int:
    """0: copied. 1: it stopped. 2: the input can't be used."""
    parser = Parser(__doc__)
    parser.add_argument("out", help="folder or URI of the sweep's results")
    parser.add_argument("--into", metavar="OUT", help="folder or URI for the copy; it must hold no results")
    parser.add_argument("--rows-per-file", type=whole, default=ROWS_PER_FILE, help="runs in each file, at least")
    try:
        flags = parser.parse_args(arguments)
        if not flags.into:
            raise UsageError("--into is missing: give the folder or URI that the merged copy goes to")
        before, after = compact(open_store(flags.out), open_store(flags.into), flags.rows_per_file)
    except UsageError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    except (OSError, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        print(without_secrets(f"stopped: {reason}"), file=sys.stderr)
        print(
            "the original is unchanged: remove the unfinished copy and start over, or choose another --into",
            file=sys.stderr,
        )
        return 1
    print(f"{before:,} files merged into {after:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
