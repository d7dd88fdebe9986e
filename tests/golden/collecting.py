"""Running scripts in this process, and adding what they print and leave to a record.

Product code is only used through the scripts in jobs/ and the files that they write, so that moving modules changes
nothing here.
"""

import base64
import gzip
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import here
from golden.digests import Record, without_floats

from jobs import find_scripts, module_of

ROOT: Final = Path(__file__).parents[2]
# Columns that differ each time; those without floats that do not hold everywhere, since hashes are of trained weights
# too, and near ties can go either way; and those with 64 bits of which that is true.
VOLATILE: Final = {
    "started", "made", "checksum", "timing_id", "choice_id", "replay_id", "evaluation_id", "seconds", "machine",
    "threads", "versions",
}  # fmt: skip
UNSTEADY: Final = {"run_id", "top_token_ids", "top_tokens", "exit_top_token_ids", "exit_top_tokens"}
ROUNDING: Final = {"generations": {"perplexity"}, "choices": set[str](), "judgements": set[str]()}


class Recording:
    """Runs scripts in this process, and adds what they leave."""

    def __init__(self, record: Record):
        self.record = record
        self.add = record.add

    def help(self, script: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{script}.py"])
            said = here(ending(script_of(script)), "--help").stdout
        said = collapsed(said.replace(f"{ROOT}/", ""))
        self.add(f"{script}: help", said, said)

    def run(self, script: str, *arguments: str) -> str:
        """What the script prints, with all but the working folder as it is."""
        done = here(script_of(script), *arguments)
        assert done.returncode == 0 or script == "choose", f"{script} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.replace(os.getcwd(), "SCRATCH")

    def command(self, script: str, *arguments: str, name: str = "") -> None:
        said = self.run(script, *arguments)
        self.add(f"{name or script}: printed", said, collapsed(without_floats(said)))

    def sweep(self, name: str, *arguments: str, everywhere: bool = True) -> None:
        """A sweep into results/NAME: what it prints, its manifest and its tables."""
        out = Path("results", name)
        said = self.run("sweep", *arguments, "--out", str(out), "--quiet")
        self.add(f"sweep {name}: printed", said, collapsed(without_floats(said)) if everywhere else None)
        manifest = json.loads((out / "sweep.json").read_text())
        lasting = without_volatile(manifest)
        self.add(f"sweep {name}: manifest", lasting, {**lasting, "model": None} if everywhere else None)
        self.tables(name, "generations", "tokens", everywhere=everywhere)

    def tables(self, sweep: str, *names: str, everywhere: bool = True) -> None:
        for name in names:
            files = sorted(Path("results", sweep, name).glob("*.parquet"))
            self.rows(f"sweep {sweep}: {name}", [pq.read_table(path) for path in files], name, everywhere)

    def rows(self, name: str, parts: Sequence[pa.Table], kind: str = "", everywhere: bool = True) -> None:
        """Rows by mode and rule, in an order of their own; and, once for each kind of table, what its columns mean."""
        table = pa.concat_tables(parts)
        if f"schema of {kind or name}" not in self.record.digests:
            schema = "\n".join(f"{field} {field.metadata}" for field in table.schema)
            self.add(f"schema of {kind or name}", schema, schema)
        table = table.drop_columns([column for column in table.column_names if column in VOLATILE])
        unsteady = {field.name for field in table.schema if is_unsteady(field, kind)} | UNSTEADY
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            mode_and_rule = "/".join(str(row.get("configuration")).split("/")[:2])
            groups.setdefault(f"{name}, {mode_and_rule}" if kind in ("generations", "tokens") else name, []).append(row)
        for group, rows in groups.items():
            steady = [{key: value for key, value in row.items() if key not in unsteady} for row in rows]
            self.add(group, in_order(rows), in_order(steady) if everywhere else None)

    def page(self, sweep: str, everywhere: bool = True) -> None:
        """The report's data, part by part, its tokens, its script and style, and its text."""
        self.run("report", f"results/{sweep}", "--out", f"{sweep}.html")
        page = Path(f"{sweep}.html").read_text()
        blobs = dict(re.findall(r'<script type="application/gzip;base64" id="blob-([^"]*)">([^<]*)</script>', page))
        data = json.loads(unpacked(blobs.pop("payload")))
        del data["facts"], blobs["bundle"]
        for part, value in data.items():
            for key, its in keyed(part, value):
                self.add(f"page {sweep}: {key}", its, ... if everywhere else None)
        for kind in dict.fromkeys(name.partition("-")[0] for name in blobs):
            its = [unpacked(blob).hex() for name, blob in blobs.items() if name.partition("-")[0] == kind]
            self.add(f"page {sweep}: tokens, {kind}", its, None)
        for tag in ("script", "style"):
            if f"page: {tag}" not in self.record.digests:
                content = "".join(re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
                self.add(f"page: {tag}", content, content)
        bare = re.sub(r"<(script|style)[ >].*?</\1>|<meta [^>]*Policy[^>]*>", "", page, flags=re.DOTALL)
        bare = re.sub(r"<p>Model: .*?</p>", "", bare)
        words = collapsed(without_floats(re.sub(r"<svg.*?</svg>", "", bare, flags=re.DOTALL)))
        self.add(f"page {sweep}: html", bare, words if everywhere else None)


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def keyed(part: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A part of a page's data under its name, or its charts one by one."""
    if part == "charts":
        for chart in value:
            yield f"chart {chart['key']}", chart
    else:
        yield part, value


def is_unsteady(field: pa.Field, kind: str) -> bool:
    """Whether what rounding does to a column depends on the machine: not to shares and costs, which follow from counts.

    What models compute has 32 bits.
    """
    kinds = str(field.type)
    return "float" in kinds or ("double" in kinds and (kind not in ROUNDING or field.name in ROUNDING[kind]))


def without_volatile(value: Any) -> Any:
    """A value of JSON without what differs each time, at any depth."""
    if isinstance(value, dict):
        return {key: without_volatile(its) for key, its in value.items() if key not in VOLATILE}
    return [without_volatile(its) for its in value] if isinstance(value, list) else value


def collapsed(text: str) -> str:
    """The text without the layout of its tables, which depends on the width of numbers."""
    return " ".join(re.sub(r"[─━│┃]+", " ", text).split())


def unpacked(blob: str) -> bytes:
    return gzip.decompress(base64.b64decode(blob))


def script_of(name: str) -> Callable[[list[str]], int]:
    command: Callable[[list[str]], int] = import_module(module_of(find_scripts()[name.replace("_", "-")])).main
    return command


def ending(command: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """The command, which returns where it would end the process, as --help does."""

    def returning(arguments: list[str]) -> int:
        try:
            return command(arguments)
        except SystemExit as end:
            return int(end.code or 0)

    return returning
