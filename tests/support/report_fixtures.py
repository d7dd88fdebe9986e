"""Small reports, and browser pages that fail a test on any error."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from synthetic_sweeps import CONFIGURATIONS, HOSTILE, failed, run_rows, story, write_runs

from reports import PageOptions, build_report

COLOUR_RULES = ("color-contrast", "link-in-text-block")  # of axe
MOST_PROSE = 700  # words of the overview before anything is folded open
PHONE = (("width", 360), ("height", 740))
# The number of visible words, without options, folded parts and other exclusions.
WORDS = """(without) => {
  let n = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    const isLeftOut = parent.closest("script, style, option, noscript, .hidden, .skip" + without);
    if (isLeftOut || !parent.checkVisibility()) continue;
    n += walker.currentNode.textContent.split(/\\s+/).filter(Boolean).length;
  }
  return n;
}"""
# True if a canvas shows something else within a few seconds.
CHANGED = """async (canvas, before) => {
  for (let i = 0; i < 100 && canvas.toDataURL() === before; i++) await new Promise((done) => setTimeout(done, 50));
  return canvas.toDataURL() !== before;
}"""
# The number of sampled pixels that differ from the background.
INK = """(box) => {
  const canvas = box.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let ink = 0;
  for (let i = 0; i < data.length; i += 4 * 97)
    if (data[i] !== data[0] || data[i + 1] !== data[1] || data[i + 2] !== data[2]) ink++;
  return ink;
}"""

Page: TypeAlias = Any  # playwright's, whose types let every element be missing
MakeSweep = Callable[..., Path]
Context = Callable[..., Any]  # of a browser
Visit: TypeAlias = Callable[..., Page]
Walk: TypeAlias = Callable[..., Page]


def report_in(path: Path) -> Path:
    """Return a report: the file itself, or the one on the sweep in a folder, which is built once."""
    page = path / "report.html"
    return path if path.is_file() else page if page.exists() else build_report(str(path), page)


@pytest.fixture(scope="session")
def make_sweep(tmp_path_factory: pytest.TempPathFactory) -> MakeSweep:
    """Return make_sweep(n_prompts, configurations, hostile=…, fail=…) → the folder of a new sweep."""

    def make(
        n_prompts: int = 6, configurations: list[tuple[str, float | None]] = CONFIGURATIONS, hostile: bool = False,
        fail: Callable[[int, str, float | None], bool] = lambda prompt, mode, k: False, n_runs: int | None = None,
    ) -> Path:  # fmt: skip
        runs = []
        for prompt, (mode, k) in product(range(n_prompts), configurations):
            question, pieces = f"Question {prompt}?", story(prompt, mode, k)
            if hostile and prompt == 1:
                question, pieces = HOSTILE, [pieces[0], HOSTILE, "x" * 10_000, *pieces[1:]]
            run = run_rows(str(prompt), question, mode, k, pieces)
            runs.append(failed(run, f"CUDA out of memory {HOSTILE}") if fail(prompt, mode, k) else run)
        return write_runs(tmp_path_factory.mktemp("sweep") / "results", runs, n_runs=n_runs)

    return make


@pytest.fixture(scope="session")
def full(make_sweep: MakeSweep) -> Path:
    """Return a sweep of six prompts, one of them hostile, seven configurations, and one failed run."""
    return make_sweep(hostile=True, fail=lambda prompt, mode, k: (prompt, mode, k) == (2, "unfrozen", 2.0))


@pytest.fixture(scope="session")
def report(full: Path) -> Path:
    return build_report(str(full), full / "report.html")


@pytest.fixture(scope="session")
def beside(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same report with its tokens in side files."""
    return build_report(str(full), tmp_path_factory.mktemp("beside") / "r.html", PageOptions(max_bytes=1))


@pytest.fixture(scope="session")
def some(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report on `full` with two of the six prompts."""
    return build_report(str(full), tmp_path_factory.mktemp("some") / "r.html", PageOptions(prompts=["4", "2"]))


@pytest.fixture
def wrong() -> Iterator[list[str]]:
    """Yield the errors on a test's pages, and their requests of other files; those that the test leaves fail it."""
    found = list[str]()
    yield found
    assert found == []


@pytest.fixture
def visit(context: Context, report: Path, wrong: list[str]) -> Iterator[Visit]:
    """Yield visit(route) → the report in a new page at that address; options are of the browser's context.

    A `path` is another report, or the folder of a sweep.
    """
    visited = list[Page]()

    def check_message(message: Any) -> None:  # except for a test's repeated reading of pixels
        if message.type in ("error", "warning") and not message.text.startswith("Canvas2D: Multiple readback"):
            wrong.append(message.text)

    def check_request(request: Any) -> None:
        own: tuple[str, ...] = ("file:", "about:")
        if not request.is_navigation_request():
            own = (request.frame.url.partition("#")[0].removesuffix(".html") + ".data/",)
        if not request.url.startswith((*own, "blob:", "data:")):
            wrong.append(request.url)

    def visit(route: str, path: Path = report, **options: Any) -> Page:
        page = context(**options).new_page()
        visited.append(page)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", check_message)
        page.on("request", check_request)
        page.goto(report_in(path).as_uri() + route)
        if options.get("java_script_enabled", True):
            page.locator("body[data-ready]").wait_for()
        return page

    yield visit
    for page in visited:
        page.close()


@pytest.fixture
def walk(visit: Visit, report: Path) -> Walk:
    """Return walk(route) → the test's page with these options, moved to that address without reloading."""
    walked: dict[tuple[Path, frozenset[tuple[str, Any]]], Page] = {}

    def walk(route: str, path: Path = report, **options: Any) -> Page:
        key = path, frozenset(options.items())
        if key not in walked:
            return walked.setdefault(key, visit(route, path, **options))
        walked[key].mouse.move(0, 0)
        walked[key].goto(report_in(path).as_uri() + route)
        walked[key].locator(f"body[data-ready={json.dumps(route)}]").wait_for()
        return walked[key]

    return walk


def words_seen(page: Page, without: str = "") -> int:
    return int(page.evaluate(WORDS, without))


def prose_seen(page: Page) -> int:
    """Return the number of words that are in no table, model's text or control."""
    return words_seen(page, ", table, .tokens, button, label")


def violations(page: Page, axe: str, scheme: str, within: str = "html") -> list[Any]:
    """Return axe's findings: each broken rule with the nodes that break it.

    Other nodes aren't listed, which saves axe most of its time. In the dark scheme, where only colours differ, only the
    rules about colours are checked.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    options = {"resultTypes": ["violations"]} | ({"runOnly": [*COLOUR_RULES]} if scheme == "dark" else {})
    run = "async ([part, of]) => (await axe.run(part, of)).violations.map(v => [v.id, v.nodes.map(n => n.html)])"
    found: list[Any] = page.evaluate(run, [within, options])
    return found


def all_drawn(part: Any) -> Any:
    """Wait for all charts of a page or a part of one, and return it."""
    for chart in part.locator(".chart").all():
        chart.locator("canvas[aria-label]").wait_for()
    return part


def open_tables(page: Page) -> None:
    summaries = page.locator("figure summary").all()
    for table in summaries:
        table.click()
    if summaries:
        page.locator("figure table").nth(len(summaries) - 1).wait_for()


def saved(page: Page, button: str) -> Any:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value


def rows_of(download: Any) -> list[dict[str, Any]]:
    text = download.path().read_text(encoding="utf-8")
    if download.suggested_filename.endswith(".json"):
        rows: list[dict[str, Any]] = json.loads(text)["rows"]
        return rows
    return list(csv.DictReader(io.StringIO(text, newline="")))


def is_redrawn(part: Any, act: Callable[[], object]) -> bool:
    """Return True if a chart's picture soon differs after an action."""
    canvas = part.locator("canvas")
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    act()
    return bool(canvas.evaluate(CHANGED, before))


def ink_of(chart: Any) -> int:
    return int(chart.evaluate(INK))
