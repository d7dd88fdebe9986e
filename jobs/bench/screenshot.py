"""README's pictures of a report: its first screen and its coloured texts.

    eexit assess
    python jobs/bench/screenshot.py results/assess/run --out reports/sample/overview.png
    python jobs/bench/screenshot.py results/assess/run --strip --out reports/sample/text.png

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

from reports.page.build import build_report

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync"),
]

# The first is Chromium without windows, which opens reports in three quarters of the time.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless browser found on PATH, for tests too. Raise `FileNotFoundError` without one."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise FileNotFoundError(f"no Chromium on PATH: apt-get install {BROWSERS[0]}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder or URI")
    parser.add_argument("--out", required=True, help="the file of the picture")
    parser.add_argument(
        "--strip", action="store_true", help="the coloured texts alone, 900 pixels wide, at twice the resolution"
    )
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        report = build_report(flags.results, Path(folder) / "report.html")
        width, scale = (940, 2) if flags.strip else (1360, 1)
        page = browser.new_page(viewport={"width": width, "height": 1000}, device_scale_factor=scale)
        page.goto(report.resolve().as_uri())
        page.locator("body[data-ready]").wait_for()
        for chart in page.locator(".chart").all():
            chart.and_(page.locator(":has(canvas[aria-label])")).wait_for()
        shown = page.locator(".strip") if flags.strip else page
        shown.screenshot(path=flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
