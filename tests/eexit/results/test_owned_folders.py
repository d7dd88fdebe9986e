"""No command writes into a folder of results or artefacts that isn't its own."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from commands import here, without_steps
from full_disk import left

import eexit
from eexit.errors import UsageError
from eexit.plan.artefacts import WEIGHTS, ArtefactCard, write_card
from eexit.results.layout import MANIFEST, Manifest, encode_manifest, tokens_name
from eexit.results.owned_folders import OwnedFolderKind, find_owned_folder
from eexit.results.store.folder import open_store
from eexit.results.study_tables import JUDGEMENTS
from jobs import report, sweep, train
from jobs.files import export, make_prompts
from reports import generate_multi_prompt_html_visualization

Run = Callable[[list[str]], int]
SWEEP = Manifest(
    config={"prompts": [], "record_full_depth": "all", "seeds": [0], "temperature": 0.0},
    configurations=[{"key": "normal", "mode": "normal"}],
    model={"n_layers": 3, "dtype": "float32"},
    exitable_layers=[1],
)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a sweep, an evaluation without one, an artefact with its texts' sweep, a training, and paths into them."""
    for name in ("mine", "learned/texts"):
        store = open_store(tmp_path / name)
        store.publish(MANIFEST, encode_manifest(SWEEP))
        store.publish(tokens_name("ab" * 16), b"")
    open_store(tmp_path / "judged").publish(JUDGEMENTS.file("ab" * 16), b"")
    write_card(
        tmp_path / "learned",
        ArtefactCard(what="linear", holds=("readout",), model={}, layers=(1,), readout="lens", files={WEIGHTS: "0"}),
    )
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "state.safetensors").touch()
    (tmp_path / "link").symlink_to(tmp_path / "mine" / "generations")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text("{}")  # of another program
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "kind", "root", "name"),
    [
        ("mine", OwnedFolderKind.RESULTS, "mine", ""),
        ("mine/", OwnedFolderKind.RESULTS, "mine", ""),
        ("mine/generations", OwnedFolderKind.RESULTS, "mine", "generations"),
        ("other/../mine/./generations/deep//", OwnedFolderKind.RESULTS, "mine", "generations/deep"),
        ("link/deep", OwnedFolderKind.RESULTS, "mine", "generations/deep"),
        ("judged/new", OwnedFolderKind.RESULTS, "judged", "new"),
        ("learned", OwnedFolderKind.LEARNED, "learned", ""),
        ("learned/deep/down", OwnedFolderKind.LEARNED, "learned", "deep/down"),
        ("learned/texts", OwnedFolderKind.RESULTS, "learned/texts", ""),
        ("begun/x", OwnedFolderKind.LEARNED, "begun", "x"),
    ],
)
def test_a_place_is_where_it_leads_however_it_is_written(
    house: Path, place: str, kind: OwnedFolderKind, root: str, name: str
) -> None:
    for written in (place, f"{house}/{place}", f"file://{house}/{place}"):
        found = find_owned_folder(open_store(written))
        assert found is not None
        assert (found.kind, found.root, found.name) == (kind, str(house / root), name), written


def test_other_folders_are_nobodys(house: Path) -> None:
    (house / "half").mkdir()
    (house / "half" / MANIFEST).write_text("{}")
    for place in ("new", "other/deep", ".", "half/x", "mine/.."):
        assert find_owned_folder(open_store(place)) is None, place


TARGETS: list[tuple[Run, list[str], list[str]]] = [
    (export.main, ["mine", "--out"], ["mine/generations"]),
    (train.main, ["mine", "--what", "linear", "--out"], ["mine/exits", "learned/x"]),
    (sweep.main, ["--out"], ["mine/generations", "learned", "judged/x"]),
    (sweep.main, ["--out", "mine", "--json"], ["mine/sweep.json", "link/x.json", "learned/card.json"]),
    (sweep.main, ["--out", "new", "--json"], ["new/generations/x.json", "other/../new/tokens/x.json"]),
    (report.main, ["mine", "--out"], ["mine/generations/r.html", "learned/r.html"]),
    (make_prompts.main, ["--out"], ["mine/tokens/x.jsonl"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "command", "target"),
    [
        pytest.param(run, command, target, id=f"{run.__module__.removeprefix('jobs.')} {command[-1]} {target}")
        for run, command, targets in TARGETS
        for target in targets
    ],
)
def test_commands_refuse_such_a_target_in_a_line_and_change_nothing(
    house: Path, run: Run, command: list[str], target: str
) -> None:
    before = left(house)
    done = here(run, *command, target)
    [line] = without_steps(done.stderr).splitlines()
    assert done.returncode == 2
    assert f"{command[-1]} {target} is inside " in line
    assert "choose another place, outside of" in line
    assert left(house) == before


def test_a_report_from_python_is_refused_where_the_commands_is(house: Path) -> None:
    before, place = left(house), "link/r.html"
    for write in (eexit.open("mine").report, partial(generate_multi_prompt_html_visualization, [])):
        with pytest.raises(UsageError, match=f"^the report {place} is inside .*: choose another place, outside of "):
            write(place)
    assert left(house) == before


def test_a_file_may_be_beside_tables_and_a_uri_is_no_file(house: Path) -> None:
    assert here(make_prompts.main, "--n", "1", "--out", "mine/x.jsonl").returncode == 0
    for run, command in ((make_prompts.main, []), (report.main, ["mine"]), (sweep.main, ["--json"])):
        done = here(run, *command, *([] if command == ["--json"] else ["--out"]), "s3://user:secret@b/x.jsonl")
        assert (done.returncode, "secret" in done.stderr) == (2, False)
        assert "is a URI: give the name of a local file" in done.stderr
    assert not os.path.exists("s3:")
