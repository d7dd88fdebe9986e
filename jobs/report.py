"""Write a sweep's report: one HTML file that opens anywhere, offline.

    eexit report results/demo
    eexit report results/demo --out demo.html --open
    eexit report results/large --prompts 200           texts and tokens of 200 prompts, means over all prompts
    eexit report results/large --ids 17 recursion      texts and tokens of these prompts
    eexit report results/demo --unit-costs-of llama-2-7b   these exits at the unit costs of another model
    eexit report results/demo --serve                  at http://127.0.0.1:8000, rebuilt while the sweep runs
    eexit report early_exit_analysis.json

The report of a running sweep shows the committed runs.
"""

import sys
import webbrowser
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.console.command import command
from cluster.console.flags import number, whole
from cluster.console.parser import Parser
from eexit.quality.estimates import MARGIN
from eexit.results.layout import REPORT
from eexit.studies.cost_projection import KNOWN, shapes_of
from reports.progress import Progress

if TYPE_CHECKING:
    from reports import PageOptions


@command()
def main(arguments: Sequence[str]) -> int:
    """Run `eexit report`.

    Return 0 if the report was written or served, 1 if it stopped, 2 for bad flags or unreadable results.
    """
    flags = read_flags(arguments)
    if flags.serve is not None:
        from reports.page.serve import serve

        return serve(flags.results, flags.serve, options_of(flags))
    with Console(stderr=True).status("") as status:
        path = write(flags, status.update)
    print(path)
    if flags.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = Parser(__doc__)
    parser.add_argument("results", help="a sweep's folder or URI, or an early_exit_analysis.json")
    parser.add_argument("--out", help=f"the file to write (default: {REPORT} in the sweep's folder)")
    parser.switch("--open", "open it in the browser")
    parser.single("--serve", "PORT", "serve it to this machine", nargs="?", type=int, const=8000)
    what = "above 0 and below 1, as in 0.02 for two points"
    margin = partial(number, allows=lambda share: 0 < share < 1, what=what)
    of_margin = f"a setting is as good as full depth if it is worse by less than this margin (default: {MARGIN})"
    parser.single("--margin", "SHARE", of_margin, type=margin, default=MARGIN)
    models = f"{', '.join(KNOWN)}, a folder, or shapes"
    parser.single("--unit-costs-of", "MODEL", f"add the cost at another model's unit costs: {models}")
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--prompts", type=whole, metavar="N", help="number of prompts with texts (default: 100)")
    held.add_argument("--ids", nargs="+", metavar="ID", help="ids of prompts with texts")
    return parser.read(arguments)


def options_of(flags: Namespace) -> "PageOptions":
    """Return the page's options, for a file or for serving."""
    from reports.page.build import PageOptions
    from reports.read.prompt_choice import MOST

    unit_costs_of = shapes_of(flags.unit_costs_of) if flags.unit_costs_of else None
    return PageOptions(flags.ids or flags.prompts or MOST, margin=flags.margin, unit_costs_of=unit_costs_of)


def write(flags: Namespace, progress: Progress) -> Path:
    from eexit.results.owned_folders import refuse_for_file
    from reports.page.build import build_report
    from reports.page.original import generate_multi_prompt_html_visualization, load_results_json
    from reports.read.sweep import NotASweepError

    results, out = flags.results, flags.out
    if out is not None:
        refuse_for_file(out, "--out", is_report=True)
    if results.endswith(".json"):
        if not Path(results).is_file():
            raise NotASweepError(f"no such file: {results}")
        drawn = load_results_json(results)
        return generate_multi_prompt_html_visualization(drawn, out or Path(results).with_suffix(".html"))
    if out is None and "://" in results:
        raise NotASweepError(f"{results} is not a local folder: give the report's path with --out FILE")
    return build_report(results, out or Path(results) / REPORT, options_of(flags), progress)


if __name__ == "__main__":
    sys.exit(main())
