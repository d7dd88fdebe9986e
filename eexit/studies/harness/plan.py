"""What is evaluated on tasks of the lm-evaluation-harness: which configurations and tasks, and what each evaluation
depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eexit.errors import UsageError
from eexit.plan.config import Bool, Count, Float, SweepConfig, Text
from eexit.plan.configuration import Configuration, hashed
from eexit.plan.hashes import content_hash
from eexit.plan.model_facts import aside
from eexit.plan.runs import configurations, shared_fields


class TasksAsked(BaseModel):
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
Find = Callable[[TasksAsked], tuple[list[tuple[str, str]], list[str]]]


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


def need_harness() -> None:
    """Raises `UsageError` if the lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UsageError("the lm-evaluation-harness is not installed: pip install 'eexit[lm-eval]'")


def look_at_tasks(asked: TasksAsked) -> tuple[list[tuple[str, str]], list[str]]:
    """`eexit.studies.harness.tasks.find_tasks` in a process of its own. Raises `UsageError`."""
    return aside(find_here, asked)


def find_here(asked: TasksAsked) -> tuple[list[tuple[str, str]], list[str]]:
    from eexit.studies.harness.tasks import find_tasks, hush

    hush()
    return find_tasks(asked.tasks, asked.include_path)


def evaluations_of(
    config: SweepConfig,
    asked: TasksAsked,
    model: Mapping[str, Any],
    layers: Sequence[int],
    found: Sequence[tuple[str, str]],
) -> list[Evaluation]:
    """Every configuration and seed on every task. What an evaluation depends on is in its id."""
    shared = shared_fields(config)
    same = {name: value for name, value in model.items() if name != "quantization" or value}  # ids as they always were
    how = asked.model_dump(mode="json", exclude={"tasks", "include_path"})
    return [
        Evaluation(content_hash(shared, same, list(layers), how, hashed(each), seed, digest), each, seed, task)
        for each in configurations(config)
        for seed in config.seeds
        for task, digest in found
    ]
