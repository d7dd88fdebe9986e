"""README's picture of a report, which comes from the results of a study, such as that of jobs/sweeps/study.toml.

    python jobs/bench/screenshot.py results/by-hand --out reports/sample/overview.png

Needs the package playwright and a Chromium on PATH; opens nothing but the file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from browser import chromium

from reports.page.build import build_report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder or URI")
    parser.add_argument("--out", required=True, help="the file of the picture")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        report = build_report(flags.results, Path(folder) / "report.html")
        page = browser.new_page(viewport={"width": 1360, "height": 1000})
        page.goto(report.resolve().as_uri())
        page.locator("body[data-ready]").wait_for()
        for chart in page.locator(".chart").all():
            chart.and_(page.locator("[data-ink]")).wait_for()
        page.screenshot(path=flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
