import json
import re
from dataclasses import replace
from typing import Any

import pytest

from eexit.results.layout import FORMAT, Manifest, UnsupportedFormatError, decode_manifest, encode_manifest

MANIFEST = Manifest(
    config={"prompts": [{"id": "0", "prompt": "Où ?"}], "seeds": [0], "temperature": 0.0}, exitable_layers=[2, 4],
    model={"name": "tiny", "n_layers": 7, "dtype": "float32"}, n_runs=9,
)  # fmt: skip


def changed(**fields: Any) -> bytes:
    return encode_manifest(replace(MANIFEST, **fields))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not an object"),
        (json.dumps({"format": FORMAT, "config": {}}).encode(), "its checksum does not match"),
        (changed().replace(b'"n_runs": 9', b'"n_runs": 8'), "its checksum does not match"),
        (changed(format=99), f"it has format 99, not {FORMAT}"),
        (changed(config={}), "config.prompts: Field required"),
        (changed(config={**MANIFEST.config, "prompts": [{"id": "0", "prompt": 3}]}), "config.prompts.0.prompt: Input"),
        (changed(model={**MANIFEST.model, "name": "tiny\x1b[2J"}), "model.name: String should match pattern"),
        (changed(configurations=[{"key": "a", "mode": "skip", "exit_set": "all"}]), "configurations.0.exit_set: Str"),
        (changed(own=[{"kind": "rule", "name": "mine"}]), "own.0.source: Field required"),
    ],
)
def test_what_is_no_manifest_is_refused_and_wrong_types_by_where_they_are(content: bytes, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as refused:
        decode_manifest(content)
    assert "\x1b" not in str(refused.value)
    assert isinstance(refused.value, UnsupportedFormatError) == ("format" in line)
