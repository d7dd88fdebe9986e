"""Files are there with all of their content or not at all, also on a full disk."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import full_disk, left

from eexit.output.atomic_files import atomic_path, temporary_name, write_all, write_atomic
from eexit.training.training_checkpoint import TrainingCheckpoint, save_state


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("any", lambda out, size: write_atomic(out / "any", "x" * size)),  # which others call
        ("state.safetensors", lambda out, size: save_state(out, TrainingCheckpoint({}), {"a": torch.zeros(size)})),
    ],
)
def test_on_a_full_disk_what_was_there_stays_and_nothing_else(name: str, write: Any, tmp_path: Path) -> None:
    with full_disk(8192):
        write(tmp_path, 10)
        with pytest.raises(OSError, match=re.escape(str(tmp_path / name))):
            write(tmp_path, 100_000)
    assert left(tmp_path) == [name]
    assert 0 < (tmp_path / name).stat().st_size < 8192


def test_of_several_files_none_is_replaced_before_all_are_written(tmp_path: Path) -> None:
    write_all({tmp_path / "first": "1"})
    with full_disk(8192), pytest.raises(OSError, match="second"):
        write_all({tmp_path / "first": "2", tmp_path / "second": "2" * 100_000})
    assert left(tmp_path) == ["first"]
    assert (tmp_path / "first").read_text() == "1"


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for content in ("one", b"two"):
        write_atomic(tmp_path / "link", content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "two"
    reading, writing = os.pipe()
    write_atomic(Path(f"/dev/fd/{writing}"), "three")
    assert os.read(reading, 9) == b"three"
    assert left(tmp_path) == ["elsewhere", "elsewhere/file", "link"]


def test_until_it_is_whole_a_file_has_a_hidden_name_and_an_interruption_removes_it(tmp_path: Path) -> None:
    assert temporary_name("a") != temporary_name("a")
    writing = ExitStack()
    writing.enter_context(atomic_path(tmp_path / "file")).write_text("half")
    assert [path.name.startswith(".file.") for path in tmp_path.iterdir()] == [True]
    with pytest.raises(KeyboardInterrupt), writing:
        raise KeyboardInterrupt
    assert left(tmp_path) == []
    write_atomic(tmp_path / ("ä" * 127), "the longest name there may be")
    assert left(tmp_path) == ["ä" * 127]


KILLED = """
import os, signal, sys
from pathlib import Path
from eexit.output.atomic_files import atomic_path, scratch_folder

folder = Path(sys.argv[1])
with atomic_path(folder / "file") as temporary, scratch_folder(folder / "setting") as scratch:
    temporary.write_text("half")
    (scratch / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_leaves_the_next_one_removes_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    of_killed = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split(".")[1] for name in of_killed] == ["file", "setting"]
    elsewhere = [re.sub(r"(?<=ee817ee8).{8}", "0" * 8, name) for name in of_killed]  # of another machine
    ours, old = temporary_name("ours"), re.sub(r"(?<=ee817ee8).{8}", "1" * 8, temporary_name("old"))
    theirs = [".file.tmp", f".file.{'0' * 32}.tmp", of_killed[0][1:]]
    for name in (*elsewhere, ours, old, *theirs):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    write_atomic(tmp_path / "file", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", *elsewhere, ours, *theirs])
