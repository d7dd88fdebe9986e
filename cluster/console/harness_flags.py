"""What `jobs/harness.py` evaluates and where, from flags."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cluster.console.flags import make_parser, parse_flags
from cluster.console.sweep_flags import GROUPS, OUTPUT, WHERE
from cluster.job import FIELDS, SweepJob, job_of
from eexit.errors import UsageError
from eexit.plan.config import Prompt
from eexit.plan.validation_errors import explain
from eexit.studies.harness.plan import TasksAsked

# What prompts, lengths and sampling are is a matter of the tasks. Drafts give the texts of `normal`.
NOT_FLAGS: Final = (
    "prompts", "prefiller", "control_tokens", "draft", "controls", "max_new_tokens", "temperature", "top_p",
    "record_top_k", "observe", "timeout", "rows_per_shard", "out",
)  # fmt: skip
SINGULAR: Final = {"--mode": "modes", "--rule": "rules"}  # are understood too
OUT: Final = "results/harness"
TASKS: Final = "tasks"
FIRST: Final = ("help", "tasks", "limit", "model", "modes", "kl_factors", "rules", "out")


def load_harness_job(arguments: Sequence[str], description: str) -> tuple[SweepJob, TasksAsked, bool]:
    """The grid and how it is executed, what is asked of the harness, and whether to be quiet.

    Raises `UsageError` for whatever can't be used.
    """
    groups = {TASKS: tuple(TasksAsked.model_fields), **GROUPS}
    parser = make_parser(FIELDS | TasksAsked.model_fields, description, groups, FIRST, NOT_FLAGS)
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
        from eexit.studies.controls import controls_of  # here, since flags are read without pyarrow

        flags["controls"] = controls_of(flags.pop("controls_of"))
    if "tasks" not in flags:
        raise UsageError("--tasks are missing: name some, such as arc_easy; `lm-eval ls tasks` lists them")
    asked = {name: flags.pop(name) for name in TasksAsked.model_fields if name in flags}
    try:
        return job_of({**flags, "prompts": [Prompt(id="tasks", prompt="of tasks")]}), TasksAsked(**asked), quiet
    except ValidationError as error:
        raise UsageError(explain(error, given, Path("jobs/harness.py"), FIELDS)) from error
