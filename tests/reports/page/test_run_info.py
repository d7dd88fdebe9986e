"""What a report says of its model, versions and artefacts."""

from dataclasses import replace

import pytest

from reports.page.run_info import facts
from reports.read.sweep import Sweep


@pytest.mark.parametrize(
    ("about", "fact", "told"),
    [
        ({"model": {"name": "tiny", "dtype": "bfloat16", "gguf_bits": 4}, "dtype_asked": "auto"}, "Model",
         "tiny bfloat16 (--dtype auto), weights dequantised from 4 bits"),
        ({"versions": {"python": "3.13", "eexit": None, "torch": "2.9.0"}}, "Versions", "python 3.13, torch 2.9.0"),
    ],
)  # fmt: skip
def test_what_is_known_is_told(several: Sweep, about: dict[str, object], fact: str, told: str) -> None:
    assert dict(facts(replace(several, about={**several.about, **about})))[fact] == told
