"""Compare models by their finished sweeps and assessments, on the prompts that they share.

    eexit compare results/small results/large
    eexit compare results/small results/large --out compare.html
    eexit compare results/small results/large --confidence 0.95 0.998 --json compare.json

One line per model has its shape, the price of a head read, right answers at full depth, the share of tokens for which a
layer predicts the final layer's and is sure of it, at a quarter, half and three quarters of the depth, and the layers
that the oracle skips; of an assessment, also what the oracle and the rule save, and times. Then follow paired
differences of models. A line each precedes them for whatever differs in prompts, dtype or decoding, or is unknown.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cluster.console.command import command
from cluster.console.flags import number
from cluster.console.parser import Parser
from eexit.output.display import console_of
from eexit.quality.intervals import LEVEL

if TYPE_CHECKING:
    from eexit.studies.comparison.comparison import Comparison


@command()
def main(arguments: Sequence[str]) -> int:
    """Run `eexit compare`. Return 0 if the models were compared, 1 if it stopped, 2 for bad flags or results."""
    flags = read_flags(arguments)
    from eexit.results.owned_folders import refuse_for_file
    from eexit.studies.comparison.comparison import read_comparison

    if flags.json is not None:
        refuse_for_file(flags.json, "--json")
    if flags.out is not None:
        from reports.page.build import refuse_place

        refuse_place(Path(flags.out))
    show(read_comparison(flags.results), flags)
    return 0


def show(comparison: "Comparison", flags: Namespace) -> None:
    """Print a comparison, and write the page and the JSON file that the flags name."""
    from eexit.output.atomic_files import write_atomic
    from eexit.studies.comparison.comparison_text import tables

    console = console_of(columns=150)
    for note in comparison.notes:
        console.print(Text(note))
    for table in tables(comparison, flags.confidence):
        console.print(Text(f"\n{table.title}", style="bold"))
        console.print(Text(table.printed()))
    if flags.json is not None:
        write_atomic(Path(flags.json), json.dumps(as_dict(comparison, flags.confidence), indent=1) + "\n")
        print(flags.json)
    if flags.out is not None:
        from reports.page.comparison import write_comparison

        print(write_comparison(comparison, flags.out, flags.confidence))


def as_dict(comparison: "Comparison", confidences: Sequence[float]) -> dict[str, Any]:
    """Return the notes and all tables for JSON, with null where nothing is known."""

    def rows(frame: Any) -> Any:
        return json.loads(frame.to_json(orient="records", double_precision=15))

    return {
        "notes": [*comparison.notes],
        "models": rows(comparison.models_table()),
        "depths": rows(comparison.depths_table()),
        "settings": rows(comparison.settings_table()),
        "differences": [{"confidence": at, "rows": rows(comparison.differences_table(at))} for at in confidences],
    }


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = Parser(__doc__)
    parser.add_argument("results", nargs="+", help="folders or URIs of finished sweeps or assessments")
    confidence = partial(number, allows=lambda share: 0.5 <= share < 1, what="at least 0.5 and below 1, as in 0.998")
    what = f"of the intervals of paired differences (default: {LEVEL})"
    parser.several("--confidence", "SHARE", what, type=confidence, default=(LEVEL,))
    parser.single("--out", "FILE", "write a page with charts, such as compare.html")
    parser.single("--json", "FILE", "write all tables as JSON")
    return parser.read(arguments)


if __name__ == "__main__":
    sys.exit(main())
