"""Finding tasks of the lm-evaluation-harness: by name, pattern, file and folder, and what is told of others."""

from pathlib import Path

import pytest
from own_tasks import CHOICE, PAGES, WORDS, save_task, save_tasks

from eexit.errors import UsageError
from eexit.studies.harness import tasks as harness_tasks
from eexit.studies.harness.tasks import find_tasks


@pytest.fixture(autouse=True)
def _few_of_the_harness_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all of them takes ten seconds."""
    monkeypatch.setattr(harness_tasks, "HARNESS_TASKS", harness_tasks.HARNESS_TASKS / "arc")


def test_tasks_are_named_by_folder_file_name_and_pattern(tmp_path: Path) -> None:
    folder = str(save_tasks(tmp_path / "own"))
    everything, folders = find_tasks([folder])
    assert ([name for name, _ in everything], folders) == ([CHOICE, PAGES, WORDS], [folder])
    assert find_tasks([CHOICE, "own_[pw]*"], folder) == (everything, folders)
    file = f"{folder}/{WORDS}.yaml"
    assert find_tasks([file, file]) == ([(file, dict(everything)[WORDS])], [])


def test_a_digest_is_of_the_task_and_its_data(tmp_path: Path) -> None:
    folder = save_tasks(tmp_path / "own", CHOICE)
    [[(_, digest)], _] = find_tasks([str(folder)])
    save_task(folder, CHOICE, doc_to_text="{{question}}")
    [[(_, other)], _] = find_tasks([str(folder)])
    save_task(folder, CHOICE)
    data = folder / f"{CHOICE}.jsonl"
    data.write_text(data.read_text().replace("sky", "sea"))
    [[(_, third)], _] = find_tasks([str(folder)])
    assert len({digest, other, third}) == 3


def test_what_is_unknown_is_told_in_a_line(tmp_path: Path) -> None:
    folder = save_tasks(tmp_path / "own", CHOICE)
    (tmp_path / "empty").mkdir()
    for asked, own, message in (
        (["arc_eazy"], None, "--tasks arc_eazy: the harness knows no such task: did you mean arc_easy?"),
        (["own_choic"], str(folder), f"--tasks own_choic: the harness knows no such task: did you mean {CHOICE}"),
        (["zzz"], None, "--tasks zzz: the harness knows no such task: `lm-eval ls tasks` lists them"),
        ([f"{folder}/none.yaml"], None, "none.yaml is not there: check the name"),
        ([str(tmp_path / "empty")], None, "empty holds no task: a task is a YAML file with a key task"),
        ([CHOICE], f"{folder}/none", "none is no folder: give the folder of your own tasks"),
    ):
        with pytest.raises(UsageError) as raised:
            find_tasks(asked, own)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_data_that_is_not_there_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tasks(tmp_path / "own", CHOICE)
    (folder / f"{CHOICE}.jsonl").unlink()
    with pytest.raises(UsageError, match=rf"task {CHOICE} can't be loaded \(FileNotFoundError: .* HF_HOME has it; for"):
        find_tasks([str(folder)])
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"task arc_easy can't be loaded \(\w+: .*: its data is fetched from the Hugg"):
        find_tasks(["arc_easy"])


def test_tasks_that_run_code_are_refused(tmp_path: Path) -> None:
    folder = save_tasks(tmp_path / "own", WORDS, unsafe_code=True)
    with pytest.raises(UsageError, match=f"task {WORDS} runs code that the model writes, which is not done here"):
        find_tasks([str(folder)])
