"""Find out whether early exit pays for a model on this machine: ten commands, one verdict.

    eexit assess                                   the default model, on generated prompts
    eexit assess --model Qwen/Qwen3-0.6B --prompts mine.jsonl --out results/mine
    eexit assess --quick                           a smoke run at a tenth of the size, without a certificate
    eexit assess --model one two --out results/both    one model after the other, and their comparison
    eexit assess --dry-run                         print the ten commands

The commands train artefacts on the model's own texts; predict, from a pilot and its replays, which settings lose about
the bound; run these settings and an oracle on other prompts; certify one of them, if possible; and time it with full
depth, drafts and transformers' `generate` with prompt lookup. The verdict is yes, no or not known, each by an interval.
It also estimates the gain of removing one restriction alone: the mode, the rule's knowledge, deciding, or the proof.

Sizes follow from the statistical test, not from time. After the first step, the command prints the time left. Each step
is an ordinary sweep or study in a folder of --out, which `eexit report` and the other commands open. After an
interruption, the same command resumes and repeats lost steps. Run it on an otherwise idle machine.
"""

import os
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.text import Text

from cluster.console.command import command
from cluster.console.flags import seed, study_flags, whole
from cluster.console.flags_from_config import load_job
from cluster.console.parser import Parser
from eexit.errors import UsageError
from eexit.output.display import console_of, open_display
from eexit.output.locations import folders_by_name, inside, redact
from eexit.output.text import describe_precision, pluralize
from eexit.plan.prompts import read_prompts
from eexit.plan.sweep_config import NO_EXITS, SweepConfig
from eexit.plan.validation_errors import explain
from eexit.results.layout import ASSESSMENT, REPORT
from jobs import choose, compare, replay, sweep, timings, train

if TYPE_CHECKING:
    from cluster.assessment.assessment import Assessment
    from eexit.plan.sweep_config import Prompt
    from eexit.studies.assessment.verdict import Verdict

COMMANDS = {"sweep": sweep.main, "train": train.main, "replay": replay.main, "choose": choose.main,
            "timings": timings.main}  # fmt: skip
COMPARISON = "compare.html"
MODEL = ("model", "revision", "dtype", "quantize")
TRUST = "trust_remote_code"  # every command is told anew
READING = ("system", "thinking", "thinking_until")


@command("finished steps stay: the same command resumes from them")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit assess`. Return 0 if there is a verdict, 1 if it stopped before, 2 for bad input."""
    flags = flags_by_model(read_flags(arguments))
    assessments = [assessment_of(each) for each in flags]  # all are refused or accepted before the first one runs
    for assessment, each in zip(assessments, flags, strict=True):
        assess_one(assessment, each)
    if len(flags) == 1 or flags[0].dry_run:
        return 0
    folders = [each.out for each in flags]
    return compare.main([*folders, "--out", str(Path(folders[0]).expanduser().parent / COMPARISON)])


def flags_by_model(flags: Namespace) -> list[Namespace]:
    """Return the flags of each model's assessment; one of several has a folder in --out with the model's name.

    Raise `UsageError` for a revision of several models, and for an --out that is itself an assessment.
    """
    if len(flags.model) == 1:
        return [Namespace(**{**vars(flags), "model": flags.model[0]})]
    if flags.revision:
        raise UsageError("--revision is of one model, and --model names several: assess that model by itself")
    if (Path(flags.out).expanduser() / ASSESSMENT).is_file():
        raise UsageError(f"--out {flags.out} is an assessment of one model: give several models another folder")
    outs = folders_by_name(flags.model, flags.out)
    pairs = zip(flags.model, outs, strict=True)
    return [Namespace(**{**vars(flags), "model": model, "out": out}) for model, out in pairs]


def assess_one(assessment: "Assessment", flags: Namespace) -> None:
    """Assess a model and print the verdict, or only the commands of a dry run."""
    from cluster.assessment.assess import assess, begin

    display = open_display(quiet=flags.quiet)
    print(first_line(assessment), flush=True)
    if flags.dry_run:
        begin(assessment)
        for step in assessment.commands():
            print(step.line)
        return
    for line in plan_text(assessment):
        display.say(line)

    with ExitStack() as stack:

        def do(script: str, given: Sequence[str]) -> int:
            from cluster.session import ray_session  # not above, since a first line comes before what takes seconds

            stack.enter_context(ray_session(display.say))  # the first one starts Ray, and the others use it
            return COMMANDS[script](given)

        verdict, is_another = assess(assessment, do, display.say)
    finish(verdict, flags.out, is_another, flags.trust_remote_code)


def assessment_of(flags: Namespace) -> "Assessment":
    """Return the assessment. Raises `UsageError` for bad flags; the model is inspected, not loaded."""
    from cluster.assessment.assessment import Assessment, folder_of
    from cluster.assessment.prompt_splits import CONFIDENCE, CONFIDENCE_OF_A_SMOKE_RUN, drawn, sizes_at, split
    from cluster.assessment.recipe import Recipe
    from eexit.plan.exit_layers import every_nth_layer, with_layer_between
    from eexit.plan.model_inspection import inspect_model
    from eexit.quality.learn_then_test import alpha_share
    from eexit.quality.risk_tests import prompts_without_loss
    from eexit.studies.assessment.verdict import Bound
    from eexit.studies.timing.study import LEAST_TOKENS

    if not 0 < flags.max_risk < 1:
        raise UsageError(f"--max-risk must be above 0 and below 1, as in 0.02, got {flags.max_risk:g}")
    if flags.max_new_tokens < LEAST_TOKENS:
        raise UsageError(
            f"--max-new-tokens must be at least {LEAST_TOKENS}, since the first two of a text are not timed, got "
            f"{flags.max_new_tokens}"
        )
    folder_of(flags.out)
    whole_sizes, confidence = sizes_at(flags.max_risk), CONFIDENCE_OF_A_SMOKE_RUN if flags.quick else CONFIDENCE
    least = prompts_without_loss(flags.max_risk, alpha_share(confidence))
    if flags.prompts:
        parts = split(read_prompts(flags.prompts), whole_sizes, least, flags.quick, flags.batch)
    else:
        parts = drawn(whole_sizes, least, flags.seed, flags.quick, flags.batch)
    common, reading = ({name: getattr(flags, name) for name in names} for names in (MODEL, READING))
    trust = {TRUST: flags.trust_remote_code}
    config = config_of(flags, parts.of["run"][:1], common | reading | trust)
    model, layers, memory = inspect_model(config, 1)
    if not flags.exit_layers:
        layers = with_layer_between(every_nth_layer(model["n_layers"]))
    layer_bytes, head_bytes = memory.parts if memory and memory.parts else (0, 0)
    device = None if flags.device == "auto" else flags.device
    execution = model_flags({"device": device, "quiet": flags.quiet} | trust)
    recipe = Recipe(
        flags.out, parts, layers, model_flags(common), model_flags(reading), execution, flags.max_new_tokens,
        screens=head_bytes > layer_bytes > 0 and not model.get("quantization"), batch=flags.batch,
        is_smoke_run=flags.quick,
    )  # fmt: skip
    bound = Bound(risk=parts.risk, max_risk=flags.max_risk, confidence=confidence)
    return Assessment(recipe, bound, model, lambda arguments: load_job(arguments, sweep.DEMO)[0].config)


def model_flags(given: Mapping[str, Any]) -> list[str]:
    """Return the given fields of a sweep's configuration as flags."""
    found: list[str] = []
    for name, value in given.items():
        if value not in (None, False, (), []):
            values = [] if value is True else value if isinstance(value, list | tuple) else [value]
            found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found


def config_of(flags: Namespace, prompts: Sequence["Prompt"], fields: Mapping[str, Any]) -> SweepConfig:
    """Return the configuration of a sweep without exits. Raise `UsageError` for invalid fields."""
    given = {name: value for name, value in fields.items() if value not in (None, False)}
    layers = {"exit_layers": tuple(flags.exit_layers)} if flags.exit_layers else {}
    try:
        return SweepConfig(
            prompts=tuple(prompts), max_new_tokens=flags.max_new_tokens, **{**NO_EXITS, **given, **layers}
        )
    except ValidationError as error:
        names = {*given, *layers, "max_new_tokens"}
        raise UsageError(explain(error, names, Path(__file__), SweepConfig.model_fields)) from error


def first_line(assessment: "Assessment") -> str:
    """Return a line on the model, its dtype and weights, and the machine."""
    model, n = assessment.model, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = "auto" if "--dtype" not in assessment.recipe.common else ""
    digest = (model.get("digest") or "").removeprefix("sha256:")[:12]
    name = assessment.recipe.common[assessment.recipe.common.index("--model") + 1]
    where = f"{platform.machine()}, {pluralize(n or 1, 'core')} and as many threads"
    return " · ".join(filter(None, (name, describe_precision(model, asked), digest and f"weights {digest}", where)))


def plan_text(assessment: "Assessment") -> Iterator[str]:
    """Yield lines on the split sizes and on the statistical power that they give."""
    from eexit.quality.learn_then_test import alpha_share
    from eexit.quality.power import certification_power, gain_told, time_told

    parts, bound = assessment.recipe.parts, assessment.bound
    sizes = ", ".join(f"{len(of):,} for the {part}" for part, of in parts.of.items())
    yield f"prompts: {sizes}, {parts.choosing:,} of these for calibration"
    if assessment.recipe.is_smoke_run:
        yield "a smoke run: it certifies nothing, and does not conclude whether exits pay"
    elif bound.risk == "answers":
        yield certification_power(parts.choosing, bound.max_risk, alpha_share(bound.confidence))
    else:
        yield "too few prompts have an answer: the risk is disagreement with full depth, token by token"
    n = len(parts.of["run"])
    yield f"{n:,} prompts name a cause that gains about {100 * gain_told(n):.0f} points more than the others"
    n_calls = assessment.recipe.n_calls
    yield f"{n_calls} calls can show a time below {time_told(n_calls):.2f} of full depth's"


def finish(verdict: "Verdict", out: str, is_another: bool, trusts_code: bool) -> None:
    """Print the verdict, the files, and the command that packages the certified setting; write a missing report."""
    from eexit.results.store.folder import open_store
    from eexit.studies.assessment.verdict import FILE
    from eexit.studies.assessment.verdict_text import ANSWERS, explain, sentences, setting_line, tables

    console, run = console_of(columns=110), inside(out, "run")
    console.print(Text(verdict.where))
    console.print(Text(f"Does early exit pay? {ANSWERS[verdict.pays]} {explain(verdict)}", style="bold"))
    tabled = (table.printed() for table in tables(verdict))
    for line in filter(None, (*sentences(verdict), *tabled, setting_line(verdict))):
        console.print(Text(line))
    if is_another or not (Path(run).expanduser() / REPORT).is_file():
        sweep.write_report(run, open_store(Path(run).expanduser()))
    if verdict.pays:
        print(package_command(out, trusts_code))
    print(redact(inside(run, REPORT)))
    print(redact(inside(out, FILE)))


def package_command(out: str, trusts_code: bool) -> str:
    """Return the command that packages the certified setting of an assessment."""
    trust = ["--trust-remote-code"] if trusts_code else []
    return shlex.join(["eexit", "package", inside(out, "run"), "--chosen", "--out", inside(out, "setting"), *trust])


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser, fields = Parser(__doc__), SweepConfig.model_fields
    default = fields["model"].default
    several = f"{fields['model'].description}; several are assessed one after the other (default: {default})"
    parser.several("--model", "MODEL", several, default=(default,))
    parser.add_argument("--revision", help=fields["revision"].description)
    parser.add_argument("--dtype", help=f"auto, bfloat16, float16 or float32 (default: {fields['dtype'].default})")
    parser.add_argument("--quantize", help=fields["quantize"].description)
    parser.single("--prompts", "FILE", "a .txt, .jsonl, .csv or .parquet file (default: generated prompts)")
    parser.single("--seed", "N", "random seed of the generated prompts (default: 0)", type=seed, default=0)
    parser.add_argument("--system", help=fields["system"].description)
    parser.single(
        "--max-risk", "SHARE",
        "bound on the risk: the share of prompts that lose a correct answer or, without answers, of tokens that differ "
        "(default: 0.02)", type=float, default=0.02,
    )  # fmt: skip
    parser.single("--batch", "ROWS", "batch size at which exits have to pay (default: 1)", type=whole, default=1)
    parser.single("--max-new-tokens", "N", "maximum number of tokens per run (default: 32)", type=whole, default=32)
    layers = f"{fields['exit_layers'].description}, and one between the last two"
    parser.several("--exit-layers", "L", layers, type=int, default=None)
    parser.several("--thinking", "MARK", fields["thinking"].description, default=None)
    parser.single("--thinking-until", "PATTERN", fields["thinking_until"].description)
    parser.switch("--quick", "a smoke run at a tenth of the size, without a certificate")
    parser.switch("--dry-run", "write the prompts of each split into --out, print the commands, and stop")
    parser.single("--out", "FOLDER", "(default: results/assess)", default="results/assess")
    return study_flags(parser, arguments, with_own_exits=False)


if __name__ == "__main__":
    sys.exit(main())
