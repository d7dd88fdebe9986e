"""Evaluate configurations on tasks of the lm-evaluation-harness, or go on with evaluations that were stopped.

    pip install -e '.[lm-eval]'
    python jobs/harness.py --modes normal frozen_residual --rules confidence=0.9 --tasks arc_easy gsm8k --out results/qa
    python jobs/harness.py --model Qwen/Qwen3-0.6B --rules kl=1,2 patience=3 --tasks hellaswag --limit 200
    python jobs/harness.py --modes normal --tasks mine/trivia.yaml more_of_mine/          your own tasks

The harness makes the prompts and computes the metrics. Log-likelihoods are scored under the rule and the state, and
texts are generated under them: either way the first token is full depth's, unless --first-token-exits lets that of a
continuation exit. Its results and samples are in OUT/harness, with a folder for each configuration, and
all metrics in the table OUT/scores. OUT may be the folder of a sweep.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cluster.console.command import command
from cluster.console.display import open_display
from cluster.console.flags import make_parser, parse_flags
from cluster.console.sweep_flags import GROUPS, OUTPUT, WHERE
from cluster.job import FIELDS, SweepJob, job_of
from eexit.errors import UsageError
from eexit.output.locations import without_secrets
from eexit.output.text import counted
from eexit.plan.config import Prompt
from eexit.plan.validation_errors import explain
from eexit.studies.harness.plan import TasksAsked

# What prompts, lengths and sampling are is a matter of the tasks. Drafts give the texts of `normal`.
NOT_FLAGS: Final = (
    "prompts", "prefiller", "control_tokens", "draft", "controls", "max_new_tokens", "thinking",
    "thinking_until", "temperature", "top_p", "record_top_k", "observe", "timeout", "rows_per_shard", "out",
)  # fmt: skip
SINGULAR: Final = {"--mode": "modes", "--rule": "rules"}  # are understood too
OUT: Final = "results/harness"
TASKS: Final = "tasks"
FIRST: Final = ("help", "tasks", "limit", "model", "modes", "kl_factors", "rules", "out")


@command("what has landed stays: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """0: everything is evaluated. 1: some evaluations failed, or it stopped before. 2: the input can't be used."""
    job, asked, quiet = read_flags(arguments)
    from cluster.studies.harness import evaluate_on_tasks

    done = evaluate_on_tasks(job, asked, open_display(quiet=quiet))
    done.show(job.out, columns=120)
    if done.failures:
        name, reason = next(iter(done.failures.items()))
        failed = f"{counted(len(done.failures), 'evaluation')} failed, such as {name}: {reason}"
        print(without_secrets(f"{failed}; the same command tries again"), file=sys.stderr)
        return 1
    return 0


def read_flags(arguments: Sequence[str]) -> tuple[SweepJob, TasksAsked, bool]:
    """The grid and how it is executed, what is asked of the harness, and whether to be quiet.

    Raises `UsageError` for whatever can't be used.
    """
    groups = {TASKS: tuple(TasksAsked.model_fields), **GROUPS}
    parser = make_parser(FIELDS | TasksAsked.model_fields, __doc__ or "", groups, FIRST, NOT_FLAGS)
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


if __name__ == "__main__":
    sys.exit(main())
