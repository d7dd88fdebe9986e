"""The content of a report's file for the page's scripts."""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Charts = dict[str, dict[str, Any]]


def blob(page: str, name: str) -> bytes:
    """Return the content of one of the page's blobs, unpacked."""
    found = re.search(rf'id="blob-{name}">([^<]*)</script>', page)
    assert found, name
    return b"".join(gzip.decompress(base64.b64decode(column)) for column in found[1].split(","))


def content_of(report: Path) -> dict[str, Any]:
    """Return the data of a report as its scripts read them, so that tests need not compute them again."""
    content: dict[str, Any] = json.loads(blob(report.read_text(encoding="utf-8"), "payload"))
    return content


def charts_of(told: Mapping[str, Any]) -> Charts:
    """Return the charts of an overview by key."""
    return {chart["key"]: chart for chart in [told["trade"], *told["charts"]] if chart}
