"""Tasks of the lm-evaluation-harness: finding those that are asked for, with their data, before any model loads."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import datasets
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from eexit.errors import UsageError, first_line
from eexit.output.text import did_you_mean

HARNESS_TASKS: Final = Path(lm_eval.tasks.__file__).parent  # the harness's own
NEAR: Final = 3  # names to suggest
FOLDERS_TASK: Final = "a task is a YAML file with a key task"

Found = tuple[str, str]  # what to ask the harness for, and a digest of what that is


def find_tasks(asked: Sequence[str], own: str | None = None) -> tuple[list[Found], list[str]]:
    """The tasks that names, patterns, YAML files and folders stand for, and the folders that they are in.

    A folder stands for all tasks in it; `own` is one whose tasks are asked for by name. The data of each is loaded,
    which fetches it if it is not there yet. Raises `UsageError` for what is unknown or can't be loaded.
    """
    folders = [str(Path(text).expanduser().resolve()) for text in (*asked, *([own] if own else [])) if _is_folder(text)]
    if own and not _is_folder(own):
        raise UsageError(f"--include-path {own} is no folder: give the folder of your own tasks")
    named = _named(asked, folders)
    manager = task_manager(named, folders)
    return [(name, _digest(name, manager)) for name in dict.fromkeys(named)], folders


def hush() -> None:
    """Keep progress bars of downloads and remarks on them and of the harness out of this process's standard error."""
    datasets.disable_progress_bars()
    for name in ("lm_eval", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def task_manager(names: Sequence[str], folders: Sequence[str]) -> Any:
    """The harness's manager for these tasks. Its own tasks, whose list takes seconds, are left out where none is."""
    own = TaskManager(include_path=list(folders), include_defaults=False)
    if all(name in own.all_tasks or _is_yaml(name) for name in names):
        return own
    return TaskManager(include_path=[HARNESS_TASKS, *folders], include_defaults=False)


def _named(asked: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Names and absolute paths of YAML files for what is asked for."""
    named: list[str] = []
    known: list[str] | None = None
    for text in asked:
        if _is_folder(text):
            inside = TaskManager(include_path=text, include_defaults=False).all_subtasks
            if not inside:
                raise UsageError(f"--tasks {text} holds no task: {FOLDERS_TASK}")
            named += inside
        elif _is_yaml(text):
            path = Path(text).expanduser().resolve()
            if not path.is_file():
                raise UsageError(f"--tasks {text} is not there: check the name")
            named.append(str(path))
        else:
            known = known or task_manager([text], folders).all_tasks
            named += _matching(text, known)
    return named


def _matching(text: str, known: Sequence[str]) -> list[str]:
    matching = [name for name in known if name == text] or [name for name in known if fnmatch(name, text)]
    if not matching:
        way_out = did_you_mean(text, known, "`lm-eval ls tasks` lists them", most=NEAR)
        raise UsageError(f"--tasks {text}: the harness knows no such task: {way_out}")
    return matching


def _digest(name: str, manager: Any) -> str:
    """Of the configurations and documents of a task, or of all tasks of a group."""
    try:
        tasks = manager.load([name])["tasks"]
        docs = {task_name: list(task.eval_docs) for task_name, task in tasks.items()}
    except Exception as error:  # a task is code of others, and its data comes from anywhere
        raise UsageError(
            f"task {name} can't be loaded ({type(error).__name__}: {first_line(error)}): {_way_out(error)}"
        ) from error
    for task_name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UsageError(f"task {task_name} runs code that the model writes, which is not done here: leave it out")
        if getattr(task, "MULTIMODAL", False):
            raise UsageError(f"task {task_name} has inputs that are no text: leave it out")
    content = [[task_name, task.dump_config(), docs[task_name]] for task_name, task in sorted(tasks.items())]
    text = json.dumps(content, sort_keys=True, default=handle_non_serializable)
    return hashlib.blake2b(re.sub(r" at 0x[0-9a-f]+", "", text).encode(), digest_size=16).hexdigest()


def _way_out(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install what it needs"
    return (
        "its data is fetched from the Hugging Face hub once, so see that this machine is online or that HF_HOME has "
        "it; for a task of your own, see that its YAML file and data_files are right"
    )


def _is_folder(text: str) -> bool:
    return Path(text).expanduser().is_dir()


def _is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))
