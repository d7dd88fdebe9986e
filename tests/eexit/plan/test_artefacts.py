"""Artefacts on disk: which ones may be used, and with what."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from untrained import artefact, config_with

from eexit.errors import UsageError
from eexit.plan.artefacts import CARD, PROBE, READOUT, WEIGHTS, read_card

OTHER_WEIGHTS = {"files": {WEIGHTS: "0"}}
RECORDED_FLAGS = {
    "layers": (5, 10),
    "data": {"sweep": "my texts", "flags": ["--readout", "exits/linear", "--use", "my rules.py"]},
}


@pytest.mark.parametrize(
    ("field", "what", "role", "card", "line"),
    [
        ("readout", "probe", PROBE, {}, "holds no readout, since it was trained with --what probe: give --probe {}"),
        ("probe", "linear", READOUT, {}, "holds no probe, since it was trained with --what linear: give --readout {}"),
        ("probe", "probe", PROBE, {"readout": "raw"}, "predicts KLs of readout raw, not of lens"),
        ("probe", "probe", PROBE, {"adapter": "ab" * 32}, "was trained on an adapter's hidden states: give --adapter"),
        ("probe", "probe", PROBE, OTHER_WEIGHTS, f"is damaged: {WEIGHTS} is not the file that was trained; train it "
         "again, by the command that made it"),
        ("probe", "probe", PROBE, OTHER_WEIGHTS | RECORDED_FLAGS, "train it again: eexit train "
         "'my texts' --what probe --out {} --exit-layers 5 10 --readout exits/linear --use 'my rules.py'"),
        ("readout", "linear", READOUT, {"files": {}}, f"is damaged: {CARD} does not name {WEIGHTS}"),
    ],
)  # fmt: skip
def test_a_misfit_is_refused(tmp_path: Path, field: str, what: str, role: str, card: dict[str, Any], line: str) -> None:
    place = artefact(tmp_path / "made", what, (role,), **card)
    with pytest.raises(ValidationError, match=re.escape(line.replace("{}", str(place)))) as refused:
        config_with(**{field: str(place)})
    assert str(refused.value.errors()[0]["ctx"]["error"]).startswith(f"--{field} {place} ")


FIELDS: dict[str, Any] = {
    "table": [{"layer": 1, "series": "lens", "n": 9, "agreement": 0.25}], "seconds": 12.5,
    "settings": {"what": "gate", "layers": [1, 3], "rules": ["confidence/0.9"]}, "readout": "ab" * 32,
    "data": {"sweep": "results/texts", "n_prompts": 7}, "versions": {"torch": "2.9.0", "eexit": None},
}  # fmt: skip


def test_no_flipped_bit_of_a_card_is_read_as_data(tmp_path: Path) -> None:
    place = artefact(tmp_path / "made", "linear", (READOUT,), **FIELDS)
    file, whole = place / CARD, (place / CARD).read_bytes()
    assert read_card(str(place), READOUT).what == "linear"
    flipped = [
        whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]
        for bit in range(0, 8 * len(whole), 7)
    ]
    for damaged in (*flipped, b"", b"[]", b'{"what": "linear"}', b'{"what": "linear", "more": 1}'):
        file.write_bytes(damaged)
        with pytest.raises(UsageError) as refused:
            read_card(str(place), READOUT)
        what = f"--readout {place} has a {CARD} that is damaged, or of another version"
        assert str(refused.value) == f"{what}: train it again, by the command that made it"


def test_a_folder_without_a_card_may_be_a_training_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the command that began it goes on with it"):
        read_card(str(tmp_path), READOUT)
    with pytest.raises(UsageError, match=r"is not a folder that is there: give lens, raw or one that eexit train made"):
        read_card(str(tmp_path / "nowhere"), READOUT)
