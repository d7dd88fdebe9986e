"""The cost of a report: bytes per token, size, time and memory of its build, and how long a reader waits.

    python jobs/bench report                  100 prompts × 17 configurations × 400 tokens
    python jobs/bench report --prompts 10     a quick look
    python jobs/bench report --scale          10,000 prompts too, with 5 × 40 tokens each

The sweep is synthetic: texts with Zipf's frequencies that share stretches as greedy texts do, KLs that fall with depth,
exits by the rule itself. The waits are measured in Chromium and left out where there is none.
"""

import importlib.util
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from browser import chromium
from rich.console import Console
from rich.table import Table
from synthetic import kl_grid, write_synthetic_sweep

from cluster.console.flags import Parser
from reports.page.build import build_report, side_folder
from reports.page.payload import payload
from reports.read.sweep import read_sweep

Row = tuple[str, float, str, float | None]  # what, measured, unit, bound


def report_table(n_prompts: int = 100, scale: bool = False) -> list[Row]:
    """Measure everything, which takes some minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = write_synthetic_sweep(folder / "bare", n_prompts, top_k=0)
        top = write_synthetic_sweep(folder / "top", n_prompts, top_k=3)
        rows = bytes_per_token(bare) + bytes_per_token(top)[-1:]
        rows += build(bare, folder / "bare.html", "file, without top tokens", 25)
        rows += build(top, folder / "top.html", "file, with top tokens", 25)
        rows += waits(folder / "bare.html", "") + waits(folder / "top.html", ", with side files")
        if scale:
            large = write_synthetic_sweep(folder / "large", 10_000, top_k=0, grid=kl_grid(2), n_tokens=40)
            rows += build(large, folder / "large.html", "file of 10,000 prompts, 100 held", 25)
    return rows


def bytes_per_token(results: Path) -> list[Row]:
    """Bytes of the file per token, for each kind of blob with all that it needs."""
    _, packed = payload(read_sweep(str(results)), "")
    n = sum(packed.n)
    size = {kind: sum(map(len, blobs)) / n for kind, blobs in packed.blobs.items()}
    core = size["core"] + len(packed.pieces) / n
    rows: list[Row] = [
        ("core: token, text, exit layer, disagreement", core, "B/token", 2),
        ("with KL of each layer", core + size["kl"], "B/token", 9),
        ("exit probability of each layer, more", size["prob"], "B/token", None),
        ("log-probability, entropy, full depth's token, more", size["more"], "B/token", None),
    ]
    if "top" in size:
        rows.append(("top-3 tokens of each layer, more", size["top"], "B/token", 64))
    return rows


def build(results: Path, out: Path, label: str, bound: float) -> list[Row]:
    """In a process of its own, whose peak memory is the build's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(_build, (str(results), str(out)))
    rows: list[Row] = [(label, out.stat().st_size / 1e6, "MB", bound)]
    beside = sum(path.stat().st_size for path in side_folder(out).glob("*.js"))
    if beside:
        rows.append(("  beside it", beside / 1e6, "MB", None))
    return [*rows, ("  build", seconds, "s", None), ("  peak memory", peak, "MB", None)]


def _build(results: str, out: str) -> tuple[float, float]:
    start = time.perf_counter()
    build_report(results, out)
    seconds = time.perf_counter() - start
    # Not getrusage: its peak starts from that of the process that started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return seconds, int(peak[1]) * 1024 / 1e6 if peak else float("nan")


ROUTES = {
    "view: prompt": ("#/p/3", 0.5),
    "view: run": ("#/p/3/unfrozen/kl/1", 0.5),
    "view: two runs and a token": ("#/p/5/unfrozen/kl/1/vs/normal/t/40", 0.5),
    "view: configuration": ("#/c/unfrozen/kl/1", 0.5),
    "view: overview again": ("#/", 1.5),
    "search": ("#/s/ba", 1.0),
}
# From the change of address until the page and all its charts are there, by the page's own clock.
WAIT = """async (route) => {
  const start = performance.now();
  if (route) location.hash = route;
  const done = () => (!route || decodeURIComponent(document.body.dataset.ready) === route)
    && document.body.dataset.ready && [...document.querySelectorAll(".chart")].every((chart) => chart.dataset.ink);
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
  return (route ? performance.now() - start : performance.now()) / 1000;
}"""


def waits(report: Path, label: str) -> list[Row]:
    """The waits of a reader who opens the file and goes from view to view."""
    if importlib.util.find_spec("playwright") is None or shutil.which("chromium") is None:
        return []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.goto(report.as_uri())
        rows: list[Row] = [(f"charts, from opening the file{label}", page.evaluate(WAIT, None), "s", 1.5)]
        return rows + [
            (name + label, page.evaluate(WAIT, route), "s", bound) for name, (route, bound) in ROUTES.items()
        ]


def main(arguments: Sequence[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="prompts of the synthetic sweep (default: 100)")
    parser.add_argument("--scale", action="store_true", help="10,000 prompts too")
    flags = parser.read(arguments)
    table = Table("report", "measured", "bound", title=f"{flags.prompts} prompts × 17 configurations × 400 tokens")
    for what, measured, unit, bound in report_table(flags.prompts, flags.scale):
        over = bound is not None and measured > bound
        said = "" if bound is None else f"≤ {bound:g}"
        table.add_row(what, f"{measured:,.2f} {unit}" + (" !" if over else ""), said)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
