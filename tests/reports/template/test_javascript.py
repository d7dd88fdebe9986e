"""The page's JavaScript passes the formatter and the linter of Biome."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.page.build import SCRIPTS, TEMPLATE, page_script

CONFIGURATION = Path(__file__).parent / "javascript"


def test_every_script_is_formatted_and_the_page_has_no_mistake(node_modules: Path, tmp_path: Path) -> None:
    """The scripts are linted as the one that the page runs."""
    script = tmp_path / "page.cjs"  # not a module
    script.write_text(page_script("", 5, "report"))
    biome, strictly = str(node_modules / ".bin" / "biome"), [f"--config-path={CONFIGURATION}", "--error-on-warnings"]
    for command, files in (("format", [TEMPLATE / name for name in SCRIPTS]), ("lint", [script])):
        done = subprocess.run([biome, command, *map(str, files), *strictly], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


RULES = 'const DATA = {rules: {agree: {compares: null}, confidence: {compares: "≥"}}};'
FORMS = "FORMS.share(-4e-4), FORMS.share(-6e-4), FORMS.points(-4e-4), FORMS.points(-0.01), FORMS.times(-1e-3)"
CELLS = """cell("=1+1"), cell("@a"), cell("a,b"), cell('say "so"'), cell(null), cell(0.5)"""
AGREE, CONFIDENCE = '{rule: "agree", parameter: null}', '{rule: "confidence", parameter: 0.97}'


@pytest.mark.parametrize(
    ("script", "values", "expected"),
    [
        ("dom.js", FORMS, ["0.0%", "−0.1%", "0.0 pp", "−1.0 pp", "0.00"]),  # what rounds to zero has no sign
        ("charts.js", 'inTooltip({a: null, b: "null", c: "<b>"})',
         ['<table><tr><td class="key">c</td><td>&lt;b></td></tr></table>']),
        ("exports.js", CELLS, ["'=1+1", "'@a", '"a,b"', '"say ""so"""', "", "0.5"]),  # no formulas
        ("views/tokens.js", f"besideThreshold(1, true, {AGREE}), besideThreshold(0.9696, false, {CONFIDENCE})",
         ["1", "0.969600 < 0.97"]),
    ],
)  # fmt: skip
def test_numbers_and_cells_are_written(tmp_path: Path, script: str, values: str, expected: list[str]) -> None:
    if not (node := shutil.which("node")):
        pytest.skip("node is not there")
    program = tmp_path / "forms.cjs"
    program.write_text(f"{RULES}\n{(TEMPLATE / script).read_text()}\nconsole.log(JSON.stringify([{values}]));")
    done = subprocess.run([node, program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
