"""No command writes into a folder of results or artefacts that isn't its own."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from commands import here, left, refusal, without_steps

import eexit
from eexit.errors import UsageError
from eexit.plan.artefacts import WEIGHTS, ArtefactCard, write_card
from eexit.results.layout import MANIFEST, Manifest, encode_manifest, tokens_name
from eexit.results.owned_folders import OwnedFolder, OwnedFolderKind, find_owned_folder
from eexit.results.store.folder import open_store
from eexit.results.study_tables import JUDGEMENTS
from jobs import report, sweep, train
from jobs.files import export, make_prompts
from reports import generate_multi_prompt_html_visualization

RESULTS, LEARNED = OwnedFolderKind
SWEEP = Manifest(
    config={"prompts": [], "record_full_depth": "all", "seeds": [0], "temperature": 0.0}, exitable_layers=[1],
    configurations=[{"key": "normal", "mode": "normal"}], model={"n_layers": 3, "dtype": "float32"},
)  # fmt: skip


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a sweep, an evaluation without one, an artefact with its texts' sweep, a training, and paths into them."""
    for name in ("mine", "learned/texts"):
        store = open_store(tmp_path / name)
        store.publish(MANIFEST, encode_manifest(SWEEP))
        store.publish(tokens_name("ab" * 16), b"")
    open_store(tmp_path / "judged").publish(JUDGEMENTS.file("ab" * 16), b"")
    card = ArtefactCard(what="linear", holds=("readout",), model={}, layers=(1,), readout="lens", files={WEIGHTS: "0"})
    write_card(tmp_path / "learned", card)
    for name in ("begun/state.safetensors", "other/card.json"):  # the card is of another program
        open_store(tmp_path).publish(name, b"{}")
    (tmp_path / "link").symlink_to(tmp_path / "mine" / "generations")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_place_is_where_it_leads_and_other_folders_are_nobodys(house: Path) -> None:
    open_store(house).publish(f"half/{MANIFEST}", b"{}")
    for place, kind, root, name in (
        ("mine/", RESULTS, "mine", ""),
        ("other/../mine/./generations/deep//", RESULTS, "mine", "generations/deep"),
        ("link/deep", RESULTS, "mine", "generations/deep"),
        ("judged/new", RESULTS, "judged", "new"),
        ("learned", LEARNED, "learned", ""),
        ("learned/deep/down", LEARNED, "learned", "deep/down"),
        ("learned/texts", RESULTS, "learned/texts", ""),
        ("begun/x", LEARNED, "begun", "x"),
    ):
        for written in (place, f"{house}/{place}", f"file://{house}/{place}"):
            assert find_owned_folder(open_store(written)) == OwnedFolder(kind, str(house / root), name), written
    for place in ("new", "other/deep", ".", "half/x", "mine/.."):
        assert find_owned_folder(open_store(place)) is None, place


TARGETS: list[tuple[Callable[[list[str]], int], list[str], list[str]]] = [
    (export.main, ["mine", "--out"], ["mine/generations"]),
    (train.main, ["mine", "--what", "linear", "--out"], ["mine/exits", "learned/x"]),
    (sweep.main, ["--out"], ["mine/generations", "learned", "judged/x"]),
    (sweep.main, ["--out", "mine", "--json"], ["mine/sweep.json", "link/x.json", "learned/card.json"]),
    (sweep.main, ["--out", "new", "--json"], ["new/generations/x.json", "other/../new/tokens/x.json"]),
    (report.main, ["mine", "--out"], ["mine/generations/r.html", "learned/r.html"]),
    (make_prompts.main, ["--out"], ["mine/tokens/x.jsonl"]),
]  # fmt: skip


def test_commands_refuse_such_a_target_and_so_does_a_report_from_python(house: Path) -> None:
    before, place = left(house), "link/r.html"
    for run, command, targets in TARGETS:
        for target in targets:
            done = here(run, *command, target)
            [line] = without_steps(done.stderr).splitlines()
            assert f"{command[-1]} {target} is inside " in line
            assert (done.returncode, left(house)) == (2, before), target
    for write in (eexit.open("mine").report, partial(generate_multi_prompt_html_visualization, [])):
        with pytest.raises(UsageError, match=f"^the report {place} is inside .* outside of "):
            write(place)
    assert left(house) == before


def test_a_file_may_be_beside_tables_and_a_uri_is_no_file(house: Path) -> None:
    assert here(make_prompts.main, "--n", "1", "--out", "mine/x.jsonl").returncode == 0
    for run, command in ((make_prompts.main, ["--out"]), (report.main, ["mine", "--out"]), (sweep.main, ["--json"])):
        line = refusal(run, *command, "s3://user:secret@b/x.jsonl")
        assert "is a URI" in line
        assert "secret" not in line
    assert not os.path.exists("s3:")
