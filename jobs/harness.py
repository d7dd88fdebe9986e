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

import sys
from collections.abc import Sequence

from cluster.console.command import command
from cluster.console.display import open_display
from cluster.console.harness_flags import load_harness_job
from eexit.output.locations import without_secrets
from eexit.output.text import counted


@command("what has landed stays: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """0: everything is evaluated. 1: some evaluations failed, or it stopped before. 2: the input can't be used."""
    job, asked, quiet = load_harness_job(arguments, __doc__ or "")
    from cluster.studies.harness import evaluate_on_tasks

    done = evaluate_on_tasks(job, asked, open_display(quiet=quiet))
    done.show(job.out, columns=120)
    if done.failures:
        name, reason = next(iter(done.failures.items()))
        failed = f"{counted(len(done.failures), 'evaluation')} failed, such as {name}: {reason}"
        print(without_secrets(f"{failed}; the same command tries again"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
