"""Files are there with all of their content or not at all, also on a full disk."""

import os
from pathlib import Path

import pytest
from full_disk import left, on_a_full_disk

from eexit.whole_files import becoming, write_all, write_whole

CARD = """Card(what="linear", holds=("readout",), model={}, layers=(1,), readout="lens", files={}, made="x" * size)"""
WRITERS = {
    "any": "import eexit.whole_files as its; its.write_whole(out / 'any', 'x' * size)",
    "card.json": "import eexit.plan.artefacts as its; from eexit.plan.artefacts import Card; "
    f"its.write_card(out, {CARD})",
    "analysis.json": "import eexit.results.original_format as its; "
    "its.write([{'prompt': 'x' * size}], out / 'analysis.json')",
    "state.safetensors": "import eexit.training.run.saving as its; import torch; "
    "its.save_state(out, its.Saved({}), {'a': torch.zeros(size)})",
    "figures.json": "import jobs.sweep as its; from cluster.sweep import Summary; "
    "from types import SimpleNamespace; "
    "config = SimpleNamespace(observe='x' * size); "
    "its.write_figures(Summary(config, '', {'name': 'x' * size}, (), 0, 0, None), '', out / 'figures.json')",
}


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_what_was_there_stays_and_nothing_else(name: str, tmp_path: Path) -> None:
    code = f"""import sys; from pathlib import Path
import cluster.sweep
cluster.sweep.Summary.figures = lambda summary: []
out = Path(sys.argv[1])
for size in (10, 100_000):
    {WRITERS[name]}
"""
    done = on_a_full_disk(8192, code, tmp_path)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("OSError: "), said
    assert str(tmp_path / name) in said
    assert left(tmp_path) == [name]
    assert 0 < (tmp_path / name).stat().st_size < 8192


def test_of_several_files_none_is_replaced_before_all_are_written(tmp_path: Path) -> None:
    write_all({tmp_path / "first": "1", tmp_path / "second": "1"})
    code = """import sys; from pathlib import Path
from eexit.whole_files import write_all
out = Path(sys.argv[1])
write_all({out / "first": "2", out / "second": "2", out / "third": "3" * 100_000})
"""
    assert "third" in on_a_full_disk(8192, code, tmp_path).stderr
    assert left(tmp_path) == ["first", "second"]
    assert {(tmp_path / name).read_text() for name in ("first", "second")} == {"1"}


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for content in ("one", b"two"):
        write_whole(tmp_path / "link", content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "two"
    reading, writing = os.pipe()
    write_whole(Path(f"/dev/fd/{writing}"), "three")
    assert os.read(reading, 9) == b"three"
    assert left(tmp_path) == ["elsewhere", "elsewhere/file", "link"]


def test_the_longest_name_there_may_be_has_room_for_a_hidden_one(tmp_path: Path) -> None:
    write_whole(tmp_path / ("ä" * 127), "one")
    assert (tmp_path / ("ä" * 127)).read_text() == "one"


def test_until_it_is_whole_a_file_has_a_hidden_name_and_an_interruption_removes_it(tmp_path: Path) -> None:
    def interrupted() -> None:
        with becoming(tmp_path / "file") as temporary:
            temporary.write_text("half")
            assert [path.name.startswith(".file.") for path in tmp_path.iterdir()] == [True]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert left(tmp_path) == []
