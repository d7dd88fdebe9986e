"""A sweep and how it is executed, read from a TOML file and flags, which are merged and validated once.

>>> job = load_job(["--prompts", "mine.txt", "--kl-factors", "0.5", "1"], default=Path("jobs/demo.toml"))
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from cluster.console.flags import flag, make_parser, parse_flags
from eexit.messages.errors import UsageError
from eexit.messages.locations import shown
from eexit.plan.config import Count, Float, SweepConfig
from eexit.plan.prompts import read_prompts
from eexit.results.store.whereabouts import refuse_for_file
from eexit.studies.controls import controls_of


def _out(out: str) -> str:
    if odd := re.match(r"(\w\w+):/[^/]", out):
        raise ValueError(f"out {odd[1]}:/… is neither a path nor a URI: write {odd[1]}://…")
    return os.path.expanduser(out)


def _whole_or_fraction(gpus: float) -> float:
    if 0 < gpus < 0.01 or (gpus > 1 and gpus % 1):
        raise ValueError(f"gpus_per_actor must be a whole number or a fraction from 0.01 to 1, got {gpus:g}")
    return gpus


Out = Annotated[str, Field(min_length=1), AfterValidator(_out)]
Device = Literal["auto", "cpu", "cuda", "mps"]
GPUs = Annotated[Float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_or_fraction)]


class SweepJob(BaseModel):
    """A sweep, and how and where it is executed, which does not change its results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: SweepConfig
    out: Out = Field("results/sweep", description="folder or URI (s3://, gs://) the results go to")
    device: Device = Field("auto", description="auto: CUDA if there is any, else MPS, else CPU")
    actors: Count | None = Field(
        None,
        ge=1,
        description="processes that each hold the loaded model; by default one per GPU, or one per 8 CPUs, or more "
        "with fewer CPUs each if there are 100 runs and enough memory for each",
    )
    cpus_per_actor: Float | None = Field(
        None, ge=0.01, allow_inf_nan=False, description="CPUs, and so threads, of each actor; by default its share"
    )
    gpus_per_actor: GPUs | None = Field(
        None, description="GPUs of each actor, or a fraction of one; by default 1 if there are any"
    )
    accelerator_type: tuple[str, ...] | None = Field(
        None, min_length=1, description="GPU types as Ray names them (A100, L4, …), with a pool of actors for each"
    )
    timeout: Float | None = Field(
        None,
        gt=0,
        description="seconds after which to give up on loading, on a single run, and on a shard without a new token",
    )
    rows_per_shard: Count = Field(
        128,
        ge=1,
        description="about how many runs are batched together and land in one file; lower it if memory is short",
    )


_EXECUTION: dict[str, FieldInfo] = {name: field for name, field in SweepJob.model_fields.items() if name != "config"}
# All flags, and all keys of a TOML file.
FIELDS: dict[str, FieldInfo] = {
    name: field for name, field in (SweepConfig.model_fields | _EXECUTION).items() if name != "digests"
}


# The flags as `--help-all` groups them, and those that `--help` describes.
WHAT, WHERE, LEARNED, EXECUTION, OUTPUT = (
    "what to run", "where tokens exit", "learned exits", "where it runs", "output"
)  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {
    WHAT: (
        "prompts", "model", "revision", "trust_remote_code", "dtype", "system", "prefiller", "control_tokens", "seeds",
        "max_new_tokens", "temperature", "top_p",
    ),
    WHERE: (
        "modes", "kl_factors", "rules", "draft", "controls", "exit_layers", "exit_every", "decide_on", "shortlist",
    ),
    LEARNED: ("readout", "probe", "adapter"),
    EXECUTION: tuple(name for name in _EXECUTION if name != "out"),
    OUTPUT: ("out", "record_top_k"),
}  # fmt: skip
FIRST = (
    "help", "prompts", "model", "max_new_tokens", "modes", "kl_factors", "rules", "out", "config", "dry_run",
)  # fmt: skip


def job_of(fields: Mapping[str, Any]) -> SweepJob:
    """The job with these values of `FIELDS`, of `config` and execution alike. Raises `ValidationError`."""
    execution = {name: value for name, value in fields.items() if name in _EXECUTION}
    config = {
        name: value for name, value in fields.items() if name not in _EXECUTION
    }  # SweepConfig refuses unknown ones
    return SweepJob.model_validate({"config": config, **execution})


@dataclass(frozen=True)
class Options:
    """The flags that do not belong to the job itself."""

    dry_run: bool  # only print the plan
    quiet: bool  # show no progress
    json: Path | None  # the file for the figures
    prompts_from: str  # the file that the prompts were read from
    controls_from: str  # the sweep whose configurations get controls


def load_job(arguments: Sequence[str], default: Path, description: str = "") -> tuple[SweepJob, Options]:
    """The job that flags and `--config` describe, and the other flags.

    `default` is used as `--config` if the flags give neither that nor prompts. Raises `UsageError` for whatever can't
    be used.
    """
    skip = ("prompts", "controls")
    parser = make_parser(FIELDS, description, GROUPS, FIRST, skip, demo=_read_toml(default))
    parser.group(WHAT).add_argument(
        "--config", metavar="FILE", help=f"TOML with the same names; flags win (without --prompts: {_near(default)})"
    )
    parser.group(WHAT).add_argument(
        "--prompts", metavar="FILE", help=".txt, .jsonl, .csv, .parquet; or [[prompts]] in the TOML"
    )
    parser.group(WHERE).add_argument(
        "--controls-of",
        metavar="RESULTS",
        help="run a control for each configuration of a finished sweep too: rule random, which exits as often at each "
        "layer, whatever the token",
    )
    parser.group(OUTPUT).add_argument("--dry-run", action="store_const", const="yes", help="print the plan and stop")
    parser.group(OUTPUT).add_argument(
        "--quiet", action="store_const", const="yes", help="show no progress, only results and problems"
    )
    parser.group(OUTPUT).add_argument(
        "--json", metavar="FILE", help="also write the means of each configuration as JSON"
    )
    flags = parse_flags(parser, arguments)
    dry_run, quiet = (flags.pop(name, None) is not None for name in ("dry_run", "quiet"))
    figures = flags.pop("json", None)
    summary = None if figures is None else Path(figures)
    if summary and (summary.is_dir() or not next(path for path in summary.parents if path.exists()).is_dir()):
        raise UsageError(f"--json {summary} can't be written: give the name of a file in a folder")
    given = flags.pop("config", None)
    if given and "://" in given:
        raise UsageError(f"--config {shown(given)} is a URL: give a local file")
    path = Path(given or default)
    table = {} if given is None and "prompts" in flags else _read_toml(path)
    controls_from = str(flags.pop("controls_of", table.pop("controls_of", "")))
    if controls_from:
        table["controls"] = controls_of(controls_from)
    if ("rules" in flags or "draft" in flags) and "kl_factors" not in flags:
        table.pop("kl_factors", None)  # --rules and --draft replace the file's KL factors
    options = Options(dry_run, quiet, summary, str(flags.get("prompts", path)), controls_from)
    if "prompts" in flags:
        table["prompts"] = read_prompts(flags.pop("prompts"))
    elif isinstance(table.get("prompts"), str):
        options = replace(options, prompts_from=str(path.parent / table["prompts"]))
        table["prompts"] = read_prompts(options.prompts_from)
    elif isinstance(table.get("prompts"), list):
        table["prompts"] = [_with_id(entry, index) for index, entry in enumerate(table["prompts"])]
    try:
        job = job_of({**table, **flags})
    except ValidationError as error:
        raise UsageError(explain(error, set(flags), path)) from error
    if figures is not None:
        refuse_for_file(figures, "--json", planned=job.out)
    return job, options


def explain(error: ValidationError, flags: set[str], path: Path) -> str:
    """One line for the first problem that pydantic found: the value, where it came from, and the way out."""
    problems: list[dict[str, Any]] = [{**problem, "loc": _flat(problem["loc"])} for problem in error.errors()]
    # One problem can be reported twice: a tuple without its unusable entry may also be too short.
    others = {problem["loc"][:1] for problem in problems} - {problems[0]["loc"][:1]}
    text = _explain_one(problems[0], flags, path)
    return text + (f"; and {len(others)} more to mend" if others else "")


def _flat(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location of a value in the input of `job_of`."""
    return location[1:] if location[:1] == ("config",) else location


def _explain_one(problem: Mapping[str, Any], flags: set[str], path: Path) -> str:
    location: tuple[Any, ...] = problem["loc"]
    if not location:
        return str(problem["ctx"]["error"])
    name, value, context = location[0], problem["input"], problem.get("ctx", {})
    where = _where(location, flags, path)
    if name == "rules" and len(location) > 1:
        name = f"the parameter of rule {location[1]}"
    match problem["type"]:
        case "missing" if location == ("prompts",):
            return f"prompts are missing: give --prompts FILE, or [[prompts]] in {path}"
        case "missing":
            return f"{location[-1]} is missing ({where})"
        case "extra_forbidden" | "unexpected_keyword_argument":
            near = difflib.get_close_matches(str(location[-1]), FIELDS, n=1)
            return f"unknown key {location[-1]!r} in {path}" + (f": did you mean {near[0]}?" if near else ": remove it")
        case "enum" | "literal_error":
            return f"unknown {name.removesuffix('s')} {value!r}: choose from {_choices(context['expected'])} ({where})"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            sign, bound = next((_SIGNS[key], context[key]) for key in _SIGNS if key in context)
            limit = bound if isinstance(bound, int) else f"{bound:g}"
            return f"{name} must be {sign} {limit}, got {value} ({where})"
        case "too_short":
            return f"{name} needs at least one entry ({where})"
        case "value_error":
            return f"{context['error']} ({where})"
    kind = _KINDS.get(problem["type"])
    return f"{name} must be {kind}, got {value!r} ({where})" if kind else f"{name}: {problem['msg']} ({where})"


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_KINDS = {
    "bool_type": "true or false",
    "dict_type": 'a list as in ["kl=0.5,1", "agree"], or a table',
    "dataclass_type": 'a table with a prompt, as in [[prompts]] prompt = "Why?"',
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a number of fewer digits",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "string_too_short": "given",
    "string_unicode": "valid Unicode",
    "tuple_type": "a list",
}


def _where(location: tuple[Any, ...], flags: set[str], path: Path) -> str:
    name = str(location[0])
    source = flag(name) if name in flags else f"{name} in {path}"
    return f"entry {location[1] + 1} of {source}" if len(location) > 1 and isinstance(location[1], int) else source


def _choices(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {path} can't be read ({error.strerror}): check the name") from error
    except ValueError as error:
        raise UsageError(f"--config {path} is not TOML ({str(error).splitlines()[0]})") from error


def _with_id(entry: Any, index: int) -> Any:
    """The entry with its index as its id if it has none; an id may be an integer, as in a file of prompts."""
    if not isinstance(entry, dict):
        return entry
    name = entry.get("id", index)
    is_number = isinstance(name, int) and not isinstance(name, bool)
    return {**entry, "id": str(name) if is_number else name}


def _near(path: Path) -> Path:
    """The path relative to the working directory, if it is inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
