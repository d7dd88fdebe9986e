"""What the file of a report holds for the page's scripts."""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Charts = dict[str, dict[str, Any]]


def blob(page: str, name: str) -> bytes:
    """The content of one of the page's blobs, unpacked."""
    found = re.search(rf'id="blob-{name}">([^<]*)</script>', page)
    assert found, name
    return b"".join(gzip.decompress(base64.b64decode(column)) for column in found[1].split(","))


def content_of(report: Path) -> dict[str, Any]:
    """The data of a report, as its scripts read it: whoever has the report need not compute them again."""
    content: dict[str, Any] = json.loads(blob(report.read_text(encoding="utf-8"), "payload"))
    return content


def charts_of(told: Mapping[str, Any]) -> Charts:
    """The charts of an overview by their keys, given what it tells."""
    return {chart["key"]: chart for chart in [told["trade"], *told["charts"]] if chart}
