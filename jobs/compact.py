"""Merge a sweep's many small Parquet files into few; readable throughout, and a sweep can still go on afterwards.

    python jobs/compact.py results/mine
    python jobs/compact.py s3://bucket/mine --into results/mine    a merged copy: object stores can't do it in place

Refuses while a sweep is writing there, where files are damaged, and (without --into) where there are files that no
sweep wrote. Of a run that is there twice, the later attempt's row is kept.
"""

import sys
from collections.abc import Sequence

from cluster import interruption
from cluster.compaction import compact, compact_into, read_about
from cluster.flags import Parser, whole
from cluster.lease import hold
from cluster.store import open_store
from eexit.config import UsageError, first_line
from eexit.places import without_secrets

ROWS_PER_FILE = 20_000


@interruption.listening()
def main(arguments: Sequence[str]) -> int:
    """0: compacted. 1: it stopped. 2: the input can't be used."""
    parser = Parser(__doc__)
    parser.add_argument("out", help="folder or URI of the sweep's results")
    parser.add_argument("--rows-per-file", type=whole, default=ROWS_PER_FILE, help="runs in each file, at least")
    parser.add_argument("--into", metavar="OUT", help="write a merged copy there, and leave the original alone")
    try:
        flags = parser.parse_args(arguments)
        store = open_store(flags.out)
        read_about(store)
        with hold(store):
            if flags.into:
                before, after = compact_into(store, open_store(flags.into), flags.rows_per_file)
            else:
                before, after = compact(store, flags.rows_per_file)
    except UsageError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    except (OSError, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        print(without_secrets(f"stopped: {reason}"), file=sys.stderr)
        print("the results are whole: the same command starts over", file=sys.stderr)
        return 1
    print(f"{before:,} files merged into {after:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
