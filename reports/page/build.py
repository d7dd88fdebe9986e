"""The report as one HTML file without network access. Its content security policy allows only its own scripts."""

import base64
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
import vl_convert

from eexit.errors import UsageError
from eexit.output.atomic_files import write_all
from eexit.output.palette import exit_colours, ink_on
from eexit.output.text import pluralize, printable, truncate_lines
from eexit.quality.estimates import MARGIN
from eexit.results.layout import (
    REPORT_HEAD_BYTES,
    REPORT_MARK,
    SIDE_FILE_START,
    SIDE_FILES,
    is_report,
    is_side_file,
    side_file_name,
    side_folder_name,
)
from eexit.results.owned_folders import refuse_for_file
from eexit.studies.cost_projection import ModelShape
from reports.page.pack_tokens import KINDS, PackedTokens, squeeze
from reports.page.payload import payload
from reports.progress import Progress, ignore
from reports.read.prompt_choice import MOST
from reports.read.sweep import Sweep, read_sweep, refuse_damage
from reports.shared.charts import DARK, LIGHT

TEMPLATE: Final = Path(__file__).parents[1] / "template"
# One script in this order, since later files use the earlier ones.
SCRIPTS: Final = (
    "data.js", "places.js", "dom.js", "terms.js", "tables.js", "charts.js",
    "views/overview.js", "views/trade.js", "views/beside.js", "views/texts.js", "views/selection.js", "views/runs.js",
    "views/quality.js", "views/sections.js", "views/strip.js", "views/prompt.js", "views/tokens.js", "views/grid.js",
    "views/configuration.js", "views/lists.js", "views/comparison.js",
    "exports.js", "follow.js", "app.js",
)  # fmt: skip
MOST_NAMED: Final = 4  # missing runs that the message lists
MAX_BYTES: Final = 25_000_000
FIXED_BYTES: Final = 600_000  # an estimate for scripts, the Vega bundle and styles
Blobs = dict[str, list[str]]  # kind → one blob per prompt


@dataclass(frozen=True)
class PageOptions:
    """The reader's choices for a page.

    Tokens that would make the page larger than `max_bytes` go to files in a folder next to it (`side_folder`), which
    must be moved with the page. A page with `follow_seconds` requests the ETag of its address at this interval. If the
    ETag differs from the page's file name (without suffix), the page loads and shows the newer one.
    """

    prompts: int | Sequence[str] = MOST  # the number of prompts whose texts and tokens the page holds, or their ids
    max_bytes: int = MAX_BYTES
    follow_seconds: int = 0
    margin: float = MARGIN  # share of the answers that a setting may lose and still count as good as full depth
    unit_costs_of: ModelShape | None = None  # another model at whose unit costs the multiply-adds are shown too


def build_report(
    results: str, out: str | Path, options: PageOptions = PageOptions(), progress: Progress = ignore
) -> Path:
    """Write the report on the sweep in `results` (a folder or URI) to `out`, and return the path.

    An unfinished sweep gives a report on the committed runs. Damaged files are left out, and named on stderr with
    missing runs. Raise `NotASweepError` if `results` holds no sweep. Raise `UsageError` if writing would replace a file
    that isn't a report's, or put one among a sweep's tables or artefacts.
    """
    refuse_place(Path(out))
    progress("reading runs")
    sweep = replace(read_sweep(results), margin=options.margin, unit_costs_of=options.unit_costs_of)
    for line in truncate_lines(sweep.left_out):
        print(printable(f"report: left out: {line}"), file=sys.stderr)
    if missing := sweep.missing:
        names = "; ".join(truncate_lines(missing, most=MOST_NAMED))
        said = f"report: {pluralize(len(missing), 'run')} missing, which the sweep's command does: {names}"
        print(printable(said), file=sys.stderr)
    name = sweep.about["model"].get("name", "")
    try:
        return write_report(sweep, out, f"Early exit: {name}" if name else "Early exit", options, progress)
    except Exception:
        # The cause may be a damaged file, which was read only in part. A check of all files names it.
        refuse_damage(results)
        raise


def write_report(
    sweep: Sweep, out: str | Path, title: str, options: PageOptions = PageOptions(), progress: Progress = ignore
) -> Path:
    """Write the page of a sweep of any origin, and return its path. Raise `UsageError` as `build_report` does."""
    out = Path(out)
    refuse_place(out)
    data, packed = payload(sweep, title, options.prompts, progress)
    progress("writing the page")
    kept, outside = split_blobs(packed, options.max_bytes - len(squeeze(json.dumps(data).encode())) - FIXED_BYTES)
    page = page_html(data, packed.pieces, kept, outside, side_folder(out).name, options.follow_seconds)
    _write_files(out, page, _side_files(side_folder(out), outside))
    return out


def render(sweep: Sweep, title: str) -> str:
    """Return the HTML of the whole page, without side files. The same results give the same text."""
    data, packed = payload(sweep, title, len(sweep.prompts))
    return page_html(data, packed.pieces, packed.blobs, {}, "")


def side_folder(out: Path) -> Path:
    """Return the folder for a page's side files: report.html → report.data/."""
    return out.with_name(side_folder_name(out.name))


def split_blobs(packed: PackedTokens, room: int) -> tuple[Blobs, Blobs]:
    """Return the blobs that stay in the page, and others: whole `KINDS`, the largest first, until the rest fits."""
    kept: Blobs = dict(packed.blobs)
    outside: Blobs = {}
    for kind in reversed(KINDS):
        if sum(map(len, itertools.chain([packed.pieces], *kept.values()))) <= room:
            break
        if kind in kept:
            outside[kind] = kept.pop(kind)
    return kept, outside


def refuse_place(out: Path) -> None:
    """Raise `UsageError` if the report would be among results, or would replace files that are no report's."""
    refuse_for_file(out, "the report", is_report=True)
    foreign = [out] if out.exists() and not _starts(out, is_report) else []
    foreign += [path for path in side_folder(out).glob(SIDE_FILES) if not _starts(path, is_side_file)]
    if foreign:
        raise UsageError(f"{foreign[0]} is not a report's file: choose another place, or move it elsewhere")


def _starts(path: Path, is_ours: Callable[[bytes], bool]) -> bool:
    with path.open("rb") as file:
        return is_ours(file.read(REPORT_HEAD_BYTES))


def _side_files(folder: Path, outside: Blobs) -> dict[Path, str]:
    """Return one script per prompt, since a file:// page may load nothing but scripts from its folder."""
    scripts = {}
    for number, blobs in enumerate(zip(*outside.values(), strict=True)):
        named = {f"{kind}-{number}": blob for kind, blob in zip(outside, blobs, strict=True)}
        scripts[folder / side_file_name(number)] = f"{SIDE_FILE_START}{json.dumps(named)});\n"
    return scripts


def _write_files(out: Path, page: str, beside: Mapping[Path, str]) -> None:
    """Write the page and its side files, and delete older side files. On failure, an older report stays unchanged."""
    folder = side_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if beside:
        folder.mkdir(exist_ok=True)
    try:
        write_all({out: page, **beside})
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # if nothing is in it
        raise
    for stale in set(folder.glob(SIDE_FILES)) - set(beside):
        stale.unlink()


def page_html(
    data: dict[str, Any], pieces: str, kept: Blobs, outside: Blobs, folder: str, follow_seconds: int = 0
) -> str:
    """Return a page's HTML: its payload, its blobs by kind and prompt, and those of `outside` in files of `folder`."""
    data = data | {"outside": {"folder": folder if outside else "", "kinds": list(outside)}}
    content = squeeze(json.dumps(data).encode())
    # Side files are allowed by a nonce. Generated text can't contain it, since it is a hash of all of the text.
    nonce = hashlib.sha256("".join([content, *itertools.chain(*outside.values())]).encode()).hexdigest()[:32]
    bundle, packed_bundle = _bundle()
    script = page_script(nonce if outside else "", follow_seconds, Path(folder).stem)
    style = (TEMPLATE / "report.css").read_text("utf-8") + _exit_styles(len(data["layers"]))
    scripts = f"{_hash(script)} {_hash(bundle)}" + (f" 'nonce-{nonce}'" if outside else "")
    return _template().render(
        mark=REPORT_MARK,
        **{name: data[name] for name in ("title", "facts", "counts", "verdict")},
        comparison=data.get("comparison"),
        policy=f"default-src 'none'; script-src {scripts}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if follow_seconds else ""),
        follow=follow_seconds,
        style=style,
        script=script,
        blobs={
            "payload": content,
            "pieces": pieces,
            **{f"{kind}-{number}": blob for kind, blobs in kept.items() for number, blob in enumerate(blobs)},
            "bundle": packed_bundle,
        },
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")


@lru_cache(maxsize=1)
def _bundle() -> tuple[str, str]:
    """Return the JavaScript of Vega, Vega-Lite and vega-embed, as text and compressed.

    A function encloses the JavaScript, so that it defines no global name but `window.eexitEmbed`.
    """
    bundle = f"(function () {{\n{vl_convert.javascript_bundle('window.eexitEmbed = vegaEmbed;')}\n}})();"
    return bundle, squeeze(bundle.encode())


def page_script(nonce: str, follow_seconds: int, name: str) -> str:
    parts = "\n".join((TEMPLATE / name).read_text("utf-8") for name in SCRIPTS)
    follow = {"seconds": follow_seconds, "name": name} if follow_seconds else None
    given = {"THEME": LIGHT, "DARK": DARK, "NONCE": nonce, "FOLLOW": follow}
    constants = "const " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items()) + ";"
    return f'(() => {{\n"use strict";\n{constants}\n{parts}\n}})();'


def _exit_styles(n_ranks: int) -> str:
    """Return CSS classes for the exit ranks: background and text colour for early ones, an underline for the last."""
    lines = []
    for rank, colour in enumerate(exit_colours(n_ranks)):
        final = rank == n_ranks - 1
        lines.append(f".c{rank} {{ background-color: {colour}; }}")
        fill = f"background-color: {colour}; color: {ink_on(colour)};"
        lines.append(f".filled .r{rank} {{ {fill} }}" if final else f".r{rank} {{ {fill} }}")
        # Opacity would make text on its background hard to read; so the background is removed instead.
        dim = "background: none; color: var(--soft); border-bottom-color: transparent;"
        lines.append(f".only{rank} .t:not(.r{rank}) {{ {dim} }}")
    return "\n".join([*lines, f".r{n_ranks - 1} {{ border-bottom-color: var(--final); }}", ""])


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
