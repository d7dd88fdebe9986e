"""Small synthetic sweeps on disk, and a browser that fails a test on any error in a page."""

import csv
import io
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from filelock import FileLock
from screenshot import chromium
from synthetic_sweeps import (
    CONFIGURATIONS,
    HOSTILE,
    UNUSUAL,
    choose,
    failed_row,
    replay,
    run_rows,
    story,
    with_answers,
    write_sweep,
)

from reports import PageOptions, build_report

JAVASCRIPT = Path(__file__).parents[1] / "reports" / "template" / "javascript"

COLOUR_RULES = ("color-contrast", "link-in-text-block")  # of axe
MOST_PROSE = 700  # words of the overview before anything is folded open
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


# Clears another test's session storage when a report is opened; the test's own stays.
FORGET = """if (location.protocol === "file:" && name !== "visited") {
  sessionStorage.clear();
  name = "visited";
}"""


AS_ALWAYS = {("color_scheme", "light"), ("viewport", (("width", 1280), ("height", 720)))}  # the defaults
# True if a page shows this address, or has stored choices of its controls.
HAS_CHOICES = """(hash) => location.hash === hash
  || location.protocol === "file:" && sessionStorage.getItem("eexit-chosen") !== null"""
Look: TypeAlias = tuple[tuple[str, Any], ...]  # options of a browser's context


class Tab:
    """A page in which one test after another opens a report, since a new page takes a third of a test's time.

    Errors on it, and requests of anything but the report's own files, are added to `wrong`.
    """

    def __init__(self, context: Any, look: Look) -> None:
        self.look = look
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.remembers = False  # choices from an address
        self._own: tuple[str, ...] = ()
        self.page.add_init_script(FORGET)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("console", lambda message: self.wrong.append(message.text) if is_wrong(message) else None)
        self.page.on("request", self._look_at)

    def of(self, path: Path, wrong: list[str]) -> Page:
        """Return the page, for the report at `path`."""
        self.wrong, self._own = wrong, (path.as_uri(), path.with_suffix(".data").as_uri(), "blob:", "data:")
        return self.page

    def leave(self) -> None:
        """Reset the page to a new one, except for its history."""
        self.remembers = False
        self.page.goto("about:blank")
        self.page.evaluate("name = ''")
        self.page.emulate_media(media="null")
        self.page.mouse.move(0, 0)

    def _dismiss(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _look_at(self, request: Any) -> None:
        if request.url != "about:blank" and not request.url.startswith(self._own):
            self.wrong.append(request.url)


class Tabs:
    """Free tabs by their look."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._free: dict[Look, list[Tab]] = defaultdict(list)

    def take(self, look: Look) -> Tab:
        free = self._free[look]
        return free.pop() if free else Tab(self._context(**dict(look)), look)

    def give_back(self, tab: Tab) -> None:
        tab.leave()
        self._free[tab.look].append(tab)


def look_of(asked: dict[str, Any]) -> Look:
    """Return the options of a browser's context without those that hold anyway, so that tests share more tabs."""
    return tuple(sorted(asked.items() - AS_ALWAYS))


@dataclass
class Visit:
    """visit(route) → the report, newly opened at that address. `wrong` collects the errors of all pages of the test."""

    tabs: Tabs
    report: Path
    wrong: list[str] = field(default_factory=list)
    taken: list[Tab] = field(default_factory=list)

    def __call__(self, route: str, path: Path | None = None, **look: Any) -> Page:
        path = path or self.report
        self.taken.append(tab := self.tabs.take(look_of(look)))
        page = tab.of(path, self.wrong)
        page.goto(path.as_uri() + route)
        if look.get("java_script_enabled", True):
            page.locator("body[data-ready]").wait_for()
        return page


@dataclass
class Walk:
    """walk(route) → a page that tests share, moved to that address without reloading.

    It is reopened for a test that finds stored choices, or that requests the address that it shows. Pages of the shared
    report stay open; pages of another `path` stay open until there is a third path.
    """

    tabs: Tabs
    report: Path
    wrong: list[str] = field(default_factory=list)
    opened: dict[tuple[Path, Look], Tab] = field(default_factory=dict)
    of_this_test: set[tuple[Path, Look]] = field(default_factory=set)

    def __call__(self, route: str, path: Path | None = None, **look: Any) -> Page:
        path = path or self.report
        key = path, look_of(look)
        if key not in self.opened:
            for other in [other for other in self.opened if other[0] not in (self.report, path)]:
                self.tabs.give_back(self.opened.pop(other))
            self.opened[key] = self.tabs.take(key[1])
        tab = self.opened[key]
        page = tab.of(path, self.wrong)
        if key not in self.of_this_test and (tab.remembers or page.evaluate(HAS_CHOICES, route)):
            tab.leave()
        self.of_this_test.add(key)
        tab.remembers |= "?" in route
        page.mouse.move(0, 0)
        page.goto(path.as_uri() + route)
        page.locator(f"body[data-ready={json.dumps(route)}]").wait_for()
        return page


@pytest.fixture(scope="session")
def make_sweep(tmp_path_factory: pytest.TempPathFactory) -> MakeSweep:
    """Return make_sweep(n_prompts, configurations, hostile=…, fail=…) → the folder of a new sweep."""

    def make(
        n_prompts: int = 6,
        configurations: list[tuple[str, float | None]] = CONFIGURATIONS,
        hostile: bool = False,
        fail: Callable[[int, str, float | None], bool] = lambda prompt, mode, k: False,
        n_runs: int | None = None,
    ) -> Path:
        generations, tokens = [], []
        for prompt in range(n_prompts):
            question = HOSTILE if hostile and prompt == 1 else f"Question {prompt}?"
            for mode, k in configurations:
                if fail(prompt, mode, k):
                    generations.append(failed_row(str(prompt), question, mode, k, f"CUDA out of memory {HOSTILE}"))
                    continue
                pieces = story(prompt, mode, k)
                if hostile and prompt == 1:
                    pieces = [pieces[0], HOSTILE, "x" * 10_000, *pieces[1:]]
                row, rows = run_rows(str(prompt), question, mode, k, pieces)
                generations.append(row)
                tokens += rows
        return write_sweep(tmp_path_factory.mktemp("sweep") / "results", generations, tokens, n_runs)

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
    """Return the same report with two of the six prompts."""
    return build_report(str(full), tmp_path_factory.mktemp("some") / "r.html", PageOptions(prompts=["4", "2"]))


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report on two modes of an online rule and an oracle, with answers, controls, replays and a choice."""
    folder = with_answers(tmp_path_factory.mktemp("answered") / "s", 12)
    replay(folder)
    choose(folder)
    return build_report(str(folder), folder / "report.html")


@pytest.fixture(scope="session")
def unusual(make_sweep: MakeSweep) -> Callable[[str], Path]:
    """Return unusual("empty") → the report on an incomplete sweep of that kind."""

    @cache
    def unusual(name: str) -> Path:
        folder = make_sweep(**UNUSUAL[name])
        return build_report(str(folder), folder / "report.html")

    return unusual


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    try:
        with chromium() as browser:
            yield browser
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def context(browser: Any) -> Context:
    """Return context(color_scheme=…) → the browser context with these options, which all tests share."""

    @cache
    def context(**look: Any) -> Any:
        found = browser.new_context(
            **{name: dict(value) if name == "viewport" else value for name, value in look.items()}
        )
        found.set_default_timeout(10_000)
        return found

    return context


def is_wrong(message: Any) -> bool:
    """Return True for an error or warning of the console, except for a test's repeated reading of pixels."""
    return message.type in ("error", "warning") and not message.text.startswith("Canvas2D: Multiple readback")


def words_seen(page: Page, without: str = "") -> int:
    return int(page.evaluate(WORDS, without))


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


def saved(page: Page, button: str) -> Any:
    """Return the download that a button starts."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value


def rows_of(download: Any) -> list[dict[str, Any]]:
    """Return the rows of a saved CSV or JSON file."""
    text = download.path().read_text(encoding="utf-8")
    if download.suggested_filename.endswith(".json"):
        rows: list[dict[str, Any]] = json.loads(text)["rows"]
        return rows
    return list(csv.DictReader(io.StringIO(text, newline="")))


def open_tables(page: Page) -> None:
    """Open the tables of all figures."""
    summaries = page.locator("figure summary").all()
    for table in summaries:
        table.click()
    if summaries:
        page.locator("figure table").nth(len(summaries) - 1).wait_for()


def shows_another(part: Any, before: str) -> bool:
    """Return True if a chart's picture soon differs from `before`."""
    found: bool = part.locator("canvas").evaluate(CHANGED, before)
    return found


def picture_of(part: Any) -> str:
    picture: str = part.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    return picture


def ink_of(chart: Any) -> int:
    """Return the number of sampled pixels of a drawn chart that differ from the background."""
    ink: int = chart.evaluate(INK)
    return ink


def prose_seen(page: Page) -> int:
    """Return the number of words that are in no table, model's text or control."""
    return words_seen(page, ", table, .tokens, button, label")


@pytest.fixture(scope="session")
def tabs(context: Context) -> Tabs:
    return Tabs(context)


@pytest.fixture
def visit(tabs: Tabs, report: Path) -> Iterator[Visit]:
    """Yield a `Visit`; any error on a page of the test fails the test."""
    visit = Visit(tabs, report)
    yield visit
    for tab in visit.taken:
        tabs.give_back(tab)
    assert not visit.wrong, visit.wrong


@pytest.fixture(scope="session")
def walked(tabs: Tabs, report: Path) -> Walk:
    return Walk(tabs, report)


@pytest.fixture
def walk(walked: Walk) -> Iterator[Walk]:
    """Yield the `Walk`; any error on a page fails the test that walked there."""
    walked.of_this_test.clear()
    yield walked
    wrong, walked.wrong[:] = [*walked.wrong], []
    assert not wrong, wrong


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Return the folder of the npm packages that `tests/reports/javascript/package.json` names."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not there: install it to check the page's JavaScript and its accessibility")
    install = [npm, "install", "--prefer-offline"]
    with FileLock(JAVASCRIPT / "node_modules.lock"):
        done = subprocess.run(install, cwd=JAVASCRIPT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install the packages of {JAVASCRIPT}: {done.stderr.strip().splitlines()[-1:]}")
    return JAVASCRIPT / "node_modules"


@pytest.fixture(scope="session")
def axe(node_modules: Path) -> str:
    """Return the source of axe-core, the accessibility checker."""
    return (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
