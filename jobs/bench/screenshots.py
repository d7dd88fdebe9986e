"""Pictures of every view of a report, to look at; and the README's.

    python jobs/bench/screenshots.py results/demo --out shots

The picture in reports/sample/ comes from the results of a study, such as that of jobs/sweeps/study.toml, by

    python jobs/bench/screenshots.py results/by-hand --readme reports/sample/overview.png

Needs the package playwright and a Chromium on PATH; opens nothing but the file.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import chromium, visit

from reports.page.build import build_report

DESK, PHONE = {"width": 1360, "height": 900}, {"width": 360, "height": 740}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "device_scale_factor": 2},
}


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
    key = next((key for key in keys if key.endswith("/1")), keys[-1])
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
