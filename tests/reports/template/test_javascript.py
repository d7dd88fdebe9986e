"""The page's JavaScript passes the formatter and the linter of Biome."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports.page.build import SCRIPTS, TEMPLATE, page_script

CONFIGURATION = Path(__file__).parent / "javascript"


def biome(node_modules: Path, *arguments: str | Path) -> None:
    command = [node_modules / ".bin" / "biome", *arguments, f"--config-path={CONFIGURATION}", "--error-on-warnings"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_script_is_formatted(node_modules: Path) -> None:
    biome(node_modules, "format", *(TEMPLATE / name for name in SCRIPTS))


def test_the_scripts_are_linted_as_the_one_that_the_page_runs(node_modules: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.cjs"  # not a module
    script.write_text(page_script("", 5, "report"))
    biome(node_modules, "lint", script)


def printed(tmp_path: Path, name: str, before: str, value: str) -> Any:
    """Return the value of the expression after the template's script of this name."""
    if not (node := shutil.which("node")):
        pytest.skip("node is not there")
    script = tmp_path / "forms.cjs"
    script.write_text(f"{before}\n{(TEMPLATE / name).read_text()}\nconsole.log(JSON.stringify({value}));")
    done = subprocess.run([node, script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_rounds_to_zero_has_no_sign(tmp_path: Path) -> None:
    values = "[FORMS.share(-4e-4), FORMS.share(-6e-4), FORMS.points(-4e-4), FORMS.points(-0.01), FORMS.times(-1e-3)]"
    assert printed(tmp_path, "dom.js", "", values) == ["0.0%", "−0.1%", "0.0 pp", "−1.0 pp", "0.00"]


def test_a_csv_has_no_formula_and_quotes_what_needs_it(tmp_path: Path) -> None:
    values = """[cell("=1+1"), cell("@a"), cell("a,b"), cell('say "so"'), cell(null), cell(0.5)]"""
    expected = ["'=1+1", "'@a", '"a,b"', '"say ""so"""', "", "0.5"]
    assert printed(tmp_path, "exports.js", "", values) == expected


def test_what_a_rule_saw_stands_beside_its_threshold_where_it_has_one(tmp_path: Path) -> None:
    data = 'const DATA = {rules: {agree: {compares: null}, confidence: {compares: "≥"}}};'
    agree, confidence = '{rule: "agree", parameter: null}', '{rule: "confidence", parameter: 0.97}'
    saw = f"[besideThreshold(1, true, {agree}), besideThreshold(0.9696, false, {confidence})]"
    assert printed(tmp_path, "views/tokens.js", data, saw) == ["1", "0.969600 < 0.97"]


@pytest.mark.parametrize("mistake", ["const unused = 1;", "undeclared();", "let constant = 1;\nh(constant);"])
def test_the_linter_finds_a_mistake(node_modules: Path, tmp_path: Path, mistake: str) -> None:
    script = tmp_path / "page.cjs"
    script.write_text(page_script("", 5, "report").replace("\nstart();\n", f"\nstart();\n{mistake}\n"))
    with pytest.raises(AssertionError, match="error"):
        biome(node_modules, "lint", script)
