"""Write the report of a sweep: one HTML file that opens anywhere, without a network.

python jobs/report.py results/demo
python jobs/report.py results/demo --out demo.html --open
python jobs/report.py early_exit_analysis.json
"""

import argparse
import sys
import webbrowser
from pathlib import Path

from reports import NotASweepError, build_report, generate_multi_prompt_html_visualization, load_results_json


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 2 for results that can't be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder or URI, or an early_exit_analysis.json")
    parser.add_argument("--out", help="the file to write (default: report.html in the sweep's folder)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    flags = parser.parse_args(arguments)
    try:
        path = write(flags.results, flags.out)
    except (NotASweepError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(path)
    if flags.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def write(results: str, out: str | None) -> Path:
    if results.endswith(".json"):
        drawn = load_results_json(results)
        return generate_multi_prompt_html_visualization(drawn, out or Path(results).with_suffix(".html"))
    if out is None and "://" in results:
        raise NotASweepError(f"{results} is not a local folder: say where the report goes with --out FILE")
    return build_report(results, out or Path(results) / "report.html")


if __name__ == "__main__":
    sys.exit(main())
