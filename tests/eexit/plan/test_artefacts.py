"""Artefacts on disk: which ones may be used, and with what."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from untrained import artefact, config_with

from eexit.errors import UsageError
from eexit.plan.artefacts import CARD, FLAGS, READOUT, WEIGHTS, read_card
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.training.trainer_inputs import WAYS


@pytest.mark.parametrize(
    ("field", "what", "holds", "card", "says"),
    [
        ("readout", "probe", (PROBE_ROLE,), {},
         "holds no readout, since it was trained with --what probe: give --probe {}"),
        ("probe", "linear", (READOUT,), {},
         "holds no probe, since it was trained with --what linear: give --readout {}"),
        ("probe", "probe", (PROBE_ROLE,), {"readout": "raw"},
         "predicts KLs of readout raw, not of lens: give --readout as it was trained with"),
        ("probe", "probe", (PROBE_ROLE,), {"adapter": "ab" * 32},
         "was trained on a student's streams: give --adapter as it was there"),
        ("probe", "probe", (PROBE_ROLE,), {"files": {WEIGHTS: "0"}},
         f"is damaged: {WEIGHTS} is not the file that was trained; train it again, by the command that made it"),
        ("probe", "probe", (PROBE_ROLE,),
         {"files": {WEIGHTS: "0", "gone": "0"}, "layers": (5, 10),
          "data": {"sweep": "results/my texts", "flags": ["--readout", "exits/linear", "--use", "my rules.py"]}},
         f"is damaged: {WEIGHTS} is not the file that was trained; train it again: eexit train "
         "'results/my texts' --what probe --out {} --exit-layers 5 10 --readout exits/linear --use 'my rules.py'"),
        ("readout", "linear", (READOUT,), {"files": {}},
         f"is damaged: {CARD} does not name {WEIGHTS}; train it again, by the command that made it"),
    ],
)  # fmt: skip
def test_an_artefact_that_does_not_fit_is_refused_in_a_line(
    tmp_path: Path, field: str, what: str, holds: tuple[str, ...], card: dict[str, Any], says: str
) -> None:
    place = artefact(tmp_path / "made", what, holds, **card)
    with pytest.raises(ValidationError) as refused:
        config_with(**{field: str(place)})
    assert str(refused.value.errors()[0]["ctx"]["error"]) == f"--{field} {place} {says.replace('{}', str(place))}"


KINDS: dict[str, dict[str, Any]] = {
    "linear": {"table": [{"layer": 1, "series": "lens", "n": 9, "agreement": 0.25}]},
    "probe": {"readout": "ab" * 32, "seconds": 12.5},
    "gate": {"settings": {"what": "gate", "layers": [1, 3], "rules": ["confidence/0.9"]}},
    "kv-maps": {"data": {"sweep": "results/texts", "n_prompts": 7}, "versions": {"torch": "2.9.0", "eexit": None}},
}


@pytest.mark.parametrize("what", KINDS)
def test_no_flipped_bit_of_a_card_is_read_as_data(tmp_path: Path, what: str) -> None:
    role = WAYS[what].role
    place = artefact(tmp_path / "made", what, (role,), **KINDS[what])
    file, whole = place / CARD, (place / CARD).read_bytes()
    assert read_card(str(place), role).what == what
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(UsageError) as refused:
            read_card(str(place), role)
        assert str(refused.value).startswith(
            f"{FLAGS[role]} {place} has a {CARD} that is damaged, or of another version"
        )
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "[]", '{"what": "linear"}', json.dumps({"what": "linear", "more": 1})])
def test_a_damaged_card_is_refused_in_a_line(tmp_path: Path, content: str) -> None:
    (tmp_path / CARD).write_text(content)
    with pytest.raises(
        UsageError,
        match=f"--readout {tmp_path} has a {CARD} that is damaged, or of another version: train it again, by the "
        "command that made it$",
    ):
        read_card(str(tmp_path), READOUT)


def test_a_folder_without_a_card_may_be_a_training_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the command that began it goes on with it"):
        read_card(str(tmp_path), READOUT)
    with pytest.raises(UsageError, match=r"is not a folder that is there: give lens, raw or one that eexit train made"):
        read_card(str(tmp_path / "nowhere"), READOUT)
