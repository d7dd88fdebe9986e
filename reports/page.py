"""Charts and tokens → one HTML file that needs no network and lets nothing but its own script run."""

import base64
import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
import vl_convert

from reports.charts import LIGHT
from reports.packing import pack, squeeze_text
from reports.palette import exit_colours, ink_on
from reports.payload import payload
from reports.sweep import Sweep, read_sweep

TEMPLATE: Final = Path(__file__).parent / "template"
# In the order they need each other; one script in the file.
SCRIPTS: Final = (
    "data.js",
    "dom.js",
    "tables.js",
    "charts.js",
    "overview.js",
    "prompt.js",
    "tokens.js",
    "configuration.js",
    "lists.js",
    "app.js",
)


def build_report(results: str, out: str | Path) -> Path:
    """Read the sweep in `results` (folder or URI) and write its report to `out`; returns where it is.

    Raises NotASweepError where `results` holds no sweep. An unfinished sweep gives a report of what has landed.
    """
    sweep = read_sweep(results)
    name = sweep.about["model"].get("name", "")
    return write_report(sweep, out, f"Early exit: {name}" if name else "Early exit")


def write_report(sweep: Sweep, out: str | Path, title: str) -> Path:
    """Write the page of a sweep, whatever it was read from."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(sweep, title), encoding="utf-8")
    return out


def render(sweep: Sweep, title: str) -> str:
    """The page as text. A function of the sweep: the same results give the same file."""
    data, packed = payload(sweep, title), pack(sweep)
    bundle, script = _bundle(), _script()
    style = (TEMPLATE / "report.css").read_text() + _exit_styles(len(data["layers"]))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        title=title,
        facts=data["facts"],
        counts=data["counts"],
        findings=data["findings"],
        statics=[(c["title"], c["caption"], _svg(c), c["table"]) for c in data["charts"] if c.get("static")],
        policy=f"default-src 'none'; script-src {_hash(script)} {_hash(bundle)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        blobs={
            "payload": squeeze_text(json.dumps(data)),
            "pieces": packed.pieces,
            **{f"core-{number}": blob for number, blob in enumerate(packed.core)},
            **{f"detail-{number}": blob for number, blob in enumerate(packed.detail)},
            "bundle": base64.b64encode(gzip.compress(bundle.encode(), 9, mtime=0)).decode(),
        },
    )


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed. In a function, because the bundle's own names would become the page's."""
    return f"(function () {{\n{vl_convert.javascript_bundle('window.eexitEmbed = vegaEmbed;')}\n}})();"


def _script() -> str:
    parts = "\n".join((TEMPLATE / name).read_text() for name in SCRIPTS)
    return f'(function () {{\n"use strict";\nconst THEME = {json.dumps(LIGHT)};\n{parts}\n}})();'


def _exit_styles(n_ranks: int) -> str:
    """One class per exit rank: fill and ink for the early ones, an underline for the final layer."""
    lines = []
    for rank, colour in enumerate(exit_colours(n_ranks)):
        final = rank == n_ranks - 1
        lines.append(f".c{rank} {{ background-color: {colour}; }}")
        fill = f"background-color: {colour}; color: {ink_on(colour)};"
        lines.append(f".filled .r{rank} {{ {fill} }}" if final else f".r{rank} {{ {fill} }}")
        lines.append(f".only{rank} .t:not(.r{rank}) {{ opacity: 0.25; }}")
    return "\n".join([*lines, f".r{n_ranks - 1} {{ border-bottom-color: var(--final); }}", ""])


def _svg(chart: dict[str, Any]) -> str:
    spec = chart["spec"] | {"datasets": {"rows": chart["table"]["rows"]}, "config": LIGHT}
    return vl_convert.vegalite_to_svg(spec)


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
