"""Pictures of every view of a report, to look at; and the README's.

    python -m reports.screenshots results/demo --out shots

What is in reports/sample/ comes from the demo sweep (python jobs/sweep.py), by

    python jobs/report.py results/demo --out reports/sample/demo.html
    python -m reports.screenshots results/demo --readme reports/sample/overview.png

Needs the package playwright and a Chromium on PATH; opens nothing but the file.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reports.page import build_report

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync"),
]
DESK, PHONE = {"width": 1360, "height": 900}, {"width": 360, "height": 740}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "device_scale_factor": 2},
}


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Debian's or whatever is on PATH. Raises FileNotFoundError where there is none."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise FileNotFoundError("no Chromium on PATH: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def visit(browser: Any, report: Path, route: str, **look: Any) -> Any:
    """The page of a route with its charts drawn."""
    page = browser.new_context(**look).new_page()
    page.goto(report.resolve().as_uri() + route)
    page.locator("body[data-ready]").wait_for()
    for chart in page.locator(".chart").all():
        chart.and_(page.locator("[data-ink]")).wait_for()
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder or URI")
    parser.add_argument("--out", default="shots", help="the folder for the pictures")
    parser.add_argument("--readme", help="only the README's picture, to this file")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        report = build_report(flags.results, Path(folder) / "report.html")
        if flags.readme:
            page = visit(browser, report, "#/", viewport={"width": 1360, "height": 1000})
            page.screenshot(path=flags.readme)
        else:
            shoot(browser, report, Path(flags.out))
    return 0


def shoot(browser: Any, report: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for look, context in LOOKS.items():
        for view, route in routes(browser, report).items():
            page = visit(browser, report, route, **context)
            page.screenshot(path=out / f"{view}-{look}.png", full_page=True)
            if look == "dark":
                page.pdf(path=out / f"{view}.pdf")
            page.context.close()


def routes(browser: Any, report: Path) -> dict[str, str]:
    """The views, by the links of the page itself: a run that exits early, beside normal, with a token pinned."""
    page = visit(browser, report, "#/")
    prompt = page.locator("#pick-prompt option").nth(1).inner_text().split(" ")[0]
    keys = page.locator("#pick-configuration option").all_inner_texts()[1:]
    page.context.close()
    key = next((key for key in keys if key.endswith("@1")), keys[-1])
    return {
        "overview": "#/",
        "prompt": f"#/p/{prompt}",
        "configuration": f"#/p/{prompt}/{key}/t/7",
        "comparison": f"#/p/{prompt}/{key}/vs/normal/t/7",
        "everywhere": f"#/c/{key}",
        "methods": "#/methods",
        "failures": "#/fail",
        "search": "#/s/the",
    }


if __name__ == "__main__":
    sys.exit(main())
