"""What `jobs/harness.py` evaluates: which configurations and tasks, and what each evaluation depends on."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.console.flags import make_parser, parse_flags
from cluster.console.job import FIELDS, GROUPS, OUTPUT, WHERE, SweepJob, job_of
from eexit.messages.errors import UsageError
from eexit.messages.explaining import explain
from eexit.plan.config import Bool, Count, Float, Prompt, SweepConfig, Text
from eexit.plan.configuration import Configuration, hashed
from eexit.plan.hashes import content_hash
from eexit.plan.model_facts import aside
from eexit.plan.runs import configurations, shared_settings
from eexit.studies.controls import controls_of

# What prompts, lengths and sampling are is a matter of the tasks. Drafts give the texts of `normal`.
NOT_FLAGS: Final = (
    "prompts", "prefiller", "control_tokens", "draft", "controls", "max_new_tokens", "temperature", "top_p",
    "record_top_k", "timeout", "rows_per_shard", "out",
)  # fmt: skip
SINGULAR: Final = {"--mode": "modes", "--rule": "rules"}  # are understood too
OUT: Final = "results/harness"
TASKS: Final = "tasks"
FIRST: Final = ("help", "tasks", "limit", "model", "modes", "kl_factors", "rules", "out")


class Asked(BaseModel):
    """The tasks to evaluate, and how their prompts are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Text, ...] = Field(
        min_length=1,
        description="tasks or groups (`lm-eval ls tasks` lists them), patterns, YAML files, or folders of these",
    )
    include_path: Text | None = Field(None, description="folder of your own tasks, which --tasks then names")
    num_fewshot: Count | None = Field(
        None, ge=0, description="solved examples in each prompt; by default the task's own"
    )
    limit: Float | None = Field(
        None, gt=0, description="evaluate the first documents of each task only: so many, or below 1 a share"
    )
    apply_chat_template: Bool = Field(False, description="put prompts into the model's chat template")
    first_token_exits: Bool = Field(
        False, description="let the first token of a continuation exit too, which is full depth's in generation"
    )


# What finds tasks: what to ask the harness for and a digest of it, each, and the folders that they are in.
Find = Callable[[Asked], tuple[list[tuple[str, str]], list[str]]]


@dataclass(frozen=True)
class Evaluation:
    """One task, or group of tasks, under one configuration and seed."""

    evaluation_id: str
    configuration: Configuration
    seed: int
    task: str  # a name, or the path of a YAML file

    @property
    def name(self) -> str:
        task = Path(self.task).stem if self.task.endswith((".yaml", ".yml")) else self.task
        return f"{task}, {self.configuration.key}, seed {self.seed}"


@dataclass(frozen=True)
class HarnessPlan:
    """All evaluations, those of one configuration next to each other."""

    config: SweepConfig
    asked: Asked
    folders: Sequence[str]  # of the user's own tasks
    evaluations: Sequence[Evaluation]


def need_harness() -> None:
    """Raises `UsageError` if the lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UsageError("the lm-evaluation-harness is not installed: pip install 'eexit[lm-eval]'")


def load_harness_job(arguments: Sequence[str], description: str) -> tuple[SweepJob, Asked, bool]:
    """The grid and how it is executed, what is asked of the harness, and whether to be quiet.

    Raises `UsageError` for whatever can't be used.
    """
    groups = {TASKS: tuple(Asked.model_fields), **GROUPS}
    parser = make_parser(FIELDS | Asked.model_fields, description, groups, FIRST, NOT_FLAGS)
    for singular, name in SINGULAR.items():
        parser.add_argument(singular, dest=name, nargs="+", action="extend", help=argparse.SUPPRESS)
    parser.group(OUTPUT).add_argument(
        "--out", help=f"folder or URI of the results, a sweep's or a new one (default: {OUT})"
    )
    parser.group(WHERE).add_argument(
        "--controls-of", metavar="RESULTS", help="evaluate controls of a finished sweep too"
    )
    parser.group(OUTPUT).add_argument(
        "--quiet", action="store_const", const="yes", help="show no progress, only results and problems"
    )
    flags: dict[str, Any] = {"out": OUT, **parse_flags(parser, arguments)}
    quiet, given = flags.pop("quiet", None) is not None, set(flags)
    if "controls_of" in flags:
        flags["controls"] = controls_of(flags.pop("controls_of"))
    if "tasks" not in flags:
        raise UsageError("--tasks are missing: name some, such as arc_easy; `lm-eval ls tasks` lists them")
    asked = {name: flags.pop(name) for name in Asked.model_fields if name in flags}
    try:
        return job_of({**flags, "prompts": [Prompt(id="tasks", prompt="of tasks")]}), Asked(**asked), quiet
    except ValidationError as error:
        raise UsageError(explain(error, given, Path("jobs/harness.py"), FIELDS)) from error


def look_at_tasks(asked: Asked) -> tuple[list[tuple[str, str]], list[str]]:
    """`eexit.studies.harness.tasks.find_tasks` in a process of its own. Raises `UsageError`."""
    return aside(find_here, asked)


def find_here(asked: Asked) -> tuple[list[tuple[str, str]], list[str]]:
    from eexit.studies.harness.tasks import find_tasks, hush

    hush()
    return find_tasks(asked.tasks, asked.include_path)


def make_harness_plan(
    job: SweepJob, asked: Asked, model: Mapping[str, Any], layers: Sequence[int], found: Sequence[tuple[str, str]],
    folders: Sequence[str],
) -> HarnessPlan:  # fmt: skip
    """Every configuration and seed on every task. What an evaluation depends on is in its id."""
    config, shared = job.config, shared_settings(job.config)
    how = asked.model_dump(mode="json", exclude={"tasks", "include_path"})
    evaluations = [
        Evaluation(content_hash(shared, dict(model), list(layers), how, hashed(each), seed, digest), each, seed, task)
        for each in configurations(config)
        for seed in config.seeds
        for task, digest in found
    ]
    return HarnessPlan(config, asked, folders, evaluations)
