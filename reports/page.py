"""Charts and tokens → one HTML file that needs no network; a content security policy allows only its own script."""

import base64
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
import vl_convert

from eexit.config import UsageError, some
from eexit.results import (
    REPORT_HEAD_BYTES,
    REPORT_MARK,
    SIDE_FILE_START,
    SIDE_FILES,
    is_report,
    is_side_file,
    side_file_name,
    side_folder_name,
)
from reports.charts import LIGHT
from reports.choose import MOST
from reports.loading import Sweep, read_sweep, refuse_damage
from reports.packing import KINDS, Packed, squeeze
from reports.palette import exit_colours, ink_on
from reports.payload import payload
from reports.progress import Progress, ignore

TEMPLATE: Final = Path(__file__).parent / "template"
# In the order they need each other; one script in the file.
SCRIPTS: Final = (
    "data.js",
    "places.js",
    "dom.js",
    "tables.js",
    "charts.js",
    "overview.js",
    "prompt.js",
    "tokens.js",
    "grid.js",
    "configuration.js",
    "lists.js",
    "exports.js",
    "follow.js",
    "app.js",
)
MAX_BYTES: Final = 25_000_000
FIXED_BYTES: Final = 600_000  # scripts, charts' bundle, style and static charts
Blobs = dict[str, list[str]]  # kind → one per prompt


def build_report(
    results: str,
    out: str | Path,
    *,
    prompts: int | Sequence[str] = MOST,
    max_bytes: int = MAX_BYTES,
    follow_seconds: int = 0,
    progress: Progress = ignore,
) -> Path:
    """Read the sweep in `results` (folder or URI) and write its report to `out`; returns where it is.

    `prompts` says how many prompts' texts and tokens the page holds, or which (their ids). A page that would be larger
    than `max_bytes` leaves tokens in files of a folder next to it (`side_folder`), which has to go where the page goes.
    With `follow_seconds` the page asks the server that it came from, as often as that, whether the ETag of its address
    is still its own name (without suffix), and shows what is there now if it isn't.
    Raises NotASweepError where `results` holds no sweep, and UsageError where a file is in the way that is no report.
    An unfinished sweep gives a report of what has landed; what is damaged is left out, and named on stderr.
    """
    progress("reading runs")
    sweep = read_sweep(results)
    for line in some(sweep.left_out):
        print(f"report: left out: {line}", file=sys.stderr)
    name = sweep.about["model"].get("name", "")
    title = f"Early exit: {name}" if name else "Early exit"
    try:
        return write_report(
            sweep, out, title, prompts=prompts, max_bytes=max_bytes, follow_seconds=follow_seconds, progress=progress
        )
    except Exception:
        # Such an error does not name a file: see whether it comes of one that was not read as a whole before.
        refuse_damage(results)
        raise


def write_report(
    sweep: Sweep,
    out: str | Path,
    title: str,
    *,
    prompts: int | Sequence[str] = MOST,
    max_bytes: int = MAX_BYTES,
    follow_seconds: int = 0,
    progress: Progress = ignore,
) -> Path:
    """Write the page of a sweep, whatever it was read from. Raises `UsageError` where other files are in the way."""
    out = Path(out)
    _refuse_foreign(out)
    data, packed = payload(sweep, title, prompts, progress)
    progress("writing the page")
    kept, outside = split(packed, max_bytes - len(squeeze(json.dumps(data).encode())) - FIXED_BYTES)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_side_files(side_folder(out), outside)
    page = _page(data, packed, kept, outside, side_folder(out).name, follow_seconds)
    out.write_text(page, encoding="utf-8")
    return out


def render(sweep: Sweep, title: str) -> str:
    """The page as text, whatever its size. A function of the sweep: the same results give the same file."""
    data, packed = payload(sweep, title, len(sweep.prompts))
    return _page(data, packed, packed.blobs, {}, "")


def side_folder(out: Path) -> Path:
    """Where a page's side files are, if it has any: report.html → report.data/."""
    return out.with_name(side_folder_name(out.name))


def split(packed: Packed, room: int) -> tuple[Blobs, Blobs]:
    """What stays in the page and what leaves it, kind by kind, the bulkiest first, until the rest fits."""
    kept: Blobs = dict(packed.blobs)
    outside: Blobs = {}
    for kind in reversed(KINDS):
        if sum(map(len, itertools.chain([packed.pieces], *kept.values()))) <= room:
            break
        if kind in kept:
            outside[kind] = kept.pop(kind)
    return kept, outside


def _refuse_foreign(out: Path) -> None:
    """Raises `UsageError` if writing the report would replace or remove files that are not a report's."""
    foreign = [out] if out.exists() and not _starts(out, is_report) else []
    foreign += [path for path in side_folder(out).glob(SIDE_FILES) if not _starts(path, is_side_file)]
    if foreign:
        raise UsageError(f"{foreign[0]} is not a report's file: choose another place, or move it elsewhere")


def _starts(path: Path, is_ours: Callable[[bytes], bool]) -> bool:
    with path.open("rb") as file:
        return is_ours(file.read(REPORT_HEAD_BYTES))


def _write_side_files(folder: Path, outside: Blobs) -> None:
    """One script per prompt: a file:// page may load scripts, and nothing else, from beside it."""
    for stale in folder.glob(SIDE_FILES):
        stale.unlink()
    if not outside:
        return
    folder.mkdir(exist_ok=True)
    for number, blobs in enumerate(zip(*outside.values(), strict=True)):
        named = {f"{kind}-{number}": blob for kind, blob in zip(outside, blobs, strict=True)}
        (folder / side_file_name(number)).write_text(f"{SIDE_FILE_START}{json.dumps(named)});\n", encoding="utf-8")


def _page(
    data: dict[str, Any], packed: Packed, kept: Blobs, outside: Blobs, folder: str, follow_seconds: int = 0
) -> str:
    content = squeeze(
        json.dumps(data | {"outside": {"folder": folder if outside else "", "kinds": list(outside)}}).encode()
    )
    # Scripts from beside the page are let in by a word that model text can't know: it depends on all of the text.
    nonce = hashlib.sha256("".join([content, *itertools.chain(*outside.values())]).encode()).hexdigest()[:32]
    bundle, script = _bundle(), page_script(nonce if outside else "", follow_seconds, Path(folder).stem)
    style = (TEMPLATE / "report.css").read_text() + _exit_styles(len(data["layers"]))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["cell"] = _cell
    scripts = f"{_hash(script)} {_hash(bundle)}" + (f" 'nonce-{nonce}'" if outside else "")
    return environment.get_template("report.html").render(
        mark=REPORT_MARK,
        title=data["title"],
        facts=data["facts"],
        counts=data["counts"],
        findings=data["findings"],
        statics=[(c["title"], c["caption"], _svg(c)) for c in data["charts"] if c.get("static")],
        trade=next((c["table"] for c in data["charts"] if c.get("static")), None),
        policy=f"default-src 'none'; script-src {scripts}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if follow_seconds else ""),
        follow=follow_seconds,
        style=style,
        script=script,
        blobs={
            "payload": content,
            "pieces": packed.pieces,
            **{f"{kind}-{number}": blob for kind, blobs in kept.items() for number, blob in enumerate(blobs)},
            "bundle": _packed_bundle(),
        },
    )


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed. In a function, because the bundle's own names would become the page's."""
    return f"(function () {{\n{vl_convert.javascript_bundle('window.eexitEmbed = vegaEmbed;')}\n}})();"


@lru_cache(maxsize=1)
def _packed_bundle() -> str:
    return squeeze(_bundle().encode())


def page_script(nonce: str, follow_seconds: int, name: str) -> str:
    parts = "\n".join((TEMPLATE / name).read_text() for name in SCRIPTS)
    follow = {"seconds": follow_seconds, "name": name} if follow_seconds else None
    given = {"THEME": LIGHT, "NONCE": nonce, "FOLLOW": follow}
    constants = "const " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items()) + ";"
    return f'(() => {{\n"use strict";\n{constants}\n{parts}\n}})();'


def _exit_styles(n_ranks: int) -> str:
    """One class per exit rank: fill and ink for the early ones, an underline for the final layer."""
    lines = []
    for rank, colour in enumerate(exit_colours(n_ranks)):
        final = rank == n_ranks - 1
        lines.append(f".c{rank} {{ background-color: {colour}; }}")
        fill = f"background-color: {colour}; color: {ink_on(colour)};"
        lines.append(f".filled .r{rank} {{ {fill} }}" if final else f".r{rank} {{ {fill} }}")
        # Not by opacity: text made paler on its fill is hard to read.
        dim = "background: none; color: var(--soft); border-bottom-color: transparent;"
        lines.append(f".only{rank} .t:not(.r{rank}) {{ {dim} }}")
    return "\n".join([*lines, f".r{n_ranks - 1} {{ border-bottom-color: var(--final); }}", ""])


def _cell(row: dict[str, Any], column: dict[str, str]) -> str:
    """In the table for readers without scripts: a number with its interval, or a name."""
    key, form = column["key"], "{:.1%}" if column["form"] == "share" else "{:.4g}"
    value, low, high = row[key], row.get(f"{key}_low"), row.get(f"{key}_high")
    if value is None or isinstance(value, str):
        return value or "–"
    return form.format(value) + (f" [{form}, {form}]".format(low, high) if low is not None else "")


def _svg(chart: dict[str, Any]) -> str:
    spec = chart["variants"][0]["spec"] | {"datasets": {"rows": chart["table"]["rows"]}, "config": LIGHT}
    return vl_convert.vegalite_to_svg(spec)


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
