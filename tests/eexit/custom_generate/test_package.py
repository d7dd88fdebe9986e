"""`setting.json`: what is no package, half of one or an altered one is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from taken_settings import Folders

import eexit
from eexit.custom_generate.package import SETTING
from eexit.errors import UsageError
from eexit.plan.hashes import checksum


def altered(change: Callable[[Any], object], sealed: bool = True) -> Callable[[Path], None]:
    """Return a change of what is in setting.json; `sealed`: with a checksum that fits, as another version writes it."""

    def alter(folder: Path) -> None:
        held = json.loads((folder / SETTING).read_text())
        before = held.pop("checksum")
        change(held)
        (folder / SETTING).write_text(json.dumps({**held, "checksum": checksum(held) if sealed else before}))

    return alter


def linked_away(folder: Path) -> None:
    (folder / "away").symlink_to("/etc")
    altered(lambda held: held["files"].update({"away/passwd": "0"}))(folder)


def test_others_are_refused(folders: Folders, tmp_path: Path) -> None:
    refused: list[tuple[Callable[[Path], object], str]] = [
        (shutil.rmtree, "is not a folder that is there"),
        (lambda folder: (folder / SETTING).unlink(), "has no setting.json"),
        (lambda folder: os.truncate(folder / SETTING, 300), "cut off or damaged"),
        (lambda folder: (folder / SETTING).write_text("[]"), "is of no setting"),
        (altered(lambda held: held.update(format=2)), "has format 2, and this version of eexit reads 1"),
        (altered(lambda held: held["configuration"].update(parameter=0.1), sealed=False), "guarantee is void"),
        (altered(lambda held: held.pop("model")), "is half a setting"),
        (altered(lambda held: held["config"].update(gate_of_tomorrow=1)), "has fields that this version of eexit"),
        (altered(lambda held: held["config"].update(probe="../outside")), "names ../outside, which is outside of that"),
        (altered(lambda held: held["files"].update({"/etc/passwd": "0"})), "names /etc/passwd, which is outside"),
        (linked_away, "names away/passwd, which is outside"),
        (altered(lambda held: held["files"].update({"probe/card.json": "0"})), "half a setting, since probe/card.json"),
        (altered(lambda held: held["files"].update({"README.md": "0"})), "README.md is not the file that was packaged"),
    ]
    for at, (spoil, reason) in enumerate(refused):
        folder = Path(shutil.copytree(folders["exits"], tmp_path / f"{at}"))
        spoil(folder)
        with pytest.raises(UsageError, match=reason) as error:
            eexit.load(folder)
        assert "\n" not in str(error.value)
