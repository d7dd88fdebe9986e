"""The flags of `eexit sweep`, generated from fields; flags and a TOML file become one validated job.

A field of `eexit.plan.sweep_config.SweepConfig`, `eexit.sweeps.arguments.SweepSpec` or `cluster.sweep_job.SweepJob`
declares a flag, with its type, default and help. Only flags that read files or print are declared here.

>>> job = load_job(["--prompts", "mine.txt", "--kl-factors", "0.5", "1"], default=Path("jobs/sweeps/demo.toml"))
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cluster.console.flags import quiet_flag, use_flag
from cluster.console.parser import Parser
from cluster.sweep_job import EXECUTION_FIELDS, FIELDS, SweepJob, job_of
from eexit.errors import UsageError
from eexit.method.custom import use_files
from eexit.method.modes import MODES
from eexit.output.locations import redact
from eexit.output.text import flag
from eexit.plan.configuration import EVERY
from eexit.plan.prompts import read_prompts, with_package
from eexit.plan.runs import refuse_unknown_only
from eexit.plan.validation_errors import explain
from eexit.sweeps.arguments import CONTROLS_IN, CONTROLS_OF, with_controls

# The groups of flags in `--help`.
WHAT, WHERE, LEARNED, EXECUTION, OUTPUT = (
    "what to run", "where tokens exit", "learned exits", "where it runs", "output"
)  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {
    WHAT: (
        "prompts", "model", "revision", "trust_remote_code", "dtype", "quantize", "system", "prefiller",
        "control_tokens", "seeds", "max_new_tokens", "thinking", "thinking_until", "temperature", "top_p",
    ),
    WHERE: (
        "modes", "kl_factors", "rules", "draft", "controls", "exit_layers", "exit_every", "exit_sets", "screen",
        "gate_thresholds", "prompt_exits", "only",
    ),
    LEARNED: ("readout", "probe", "gate", "adapter", "kv_maps"),
    EXECUTION: tuple(name for name in EXECUTION_FIELDS if name != "out"),
    OUTPUT: ("out", "record_top_k", "record_full_depth"),
}  # fmt: skip


@dataclass(frozen=True)
class CommandOptions:
    """Flags that set no field of the job."""

    dry_run: bool  # only print the plan
    quiet: bool  # show no progress
    json: Path | None  # the file for the figures
    prompts_from: str  # the file that the prompts were read from
    controls_from: str  # the sweep whose configurations get controls


def load_job(arguments: Sequence[str], default: Path, description: str = "") -> tuple[SweepJob, CommandOptions]:
    """Load the job that the flags and `--config` describe, with its custom rules and modes.

    Args:
        default: TOML file in place of `--config`, if the flags give neither a file nor prompts.

    Returns:
        The job, and the flags that set no field of the job.

    Raises:
        UsageError: For bad input.
    """
    given = vars(sweep_parser(default, description).read(arguments))
    flags: dict[str, Any] = {
        name: _split(name, value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    dry_run, quiet = flags.pop("dry_run"), flags.pop("quiet")
    json_name = flags.pop("json", None)
    figures = _figures(json_name)
    path, table = _table(flags, default)
    in_file = [path.parent / Path(each).expanduser() for each in _texts("use", table.pop("use", []), path)]
    use_files(flags.pop("use") or in_file)
    table |= {name: flags.pop(name) for name in (CONTROLS_OF, CONTROLS_IN) if name in flags}
    controls_from, table = str(table.get(CONTROLS_OF, "")), with_controls(table)
    flags |= _settings(flags, flags.pop("settings_from_replay", None), flags.pop("within", None))
    if ("rules" in flags or "draft" in flags) and "kl_factors" not in flags:
        table.pop("kl_factors", None)  # --rules and --draft replace the file's KL factors
    prompts_from, prompts = _prompts(flags.pop("prompts", None), table.pop("prompts", None), path)
    try:
        job = job_of({**table, **prompts, **flags})
    except ValidationError as error:
        raise UsageError(explain(error, set(flags), path, FIELDS, {*table, *flags})) from error
    refuse_unknown_only(job.config)
    if json_name is not None:
        from eexit.results.owned_folders import refuse_for_file  # here, since flags need no pyarrow

        refuse_for_file(json_name, "--json", planned=job.out)
    return job, CommandOptions(dry_run, quiet, figures, prompts_from, controls_from)


def sweep_parser(default: Path, description: str = "") -> Parser:
    """Return the parser of `eexit sweep`; its help shows the values of the TOML file `default`."""
    parser = Parser(description)
    _add_fields(parser, demo=_read_toml(default))
    of_file = "TOML file with the flags' names; flags win (default without --prompts: jobs/sweeps/demo.toml)"
    parser.single("--config", "FILE", of_file, WHAT)
    of_prompts = "a .txt, .jsonl, .csv or .parquet file; or [[prompts]] in the TOML file"
    parser.single("--prompts", "FILE", of_prompts, WHAT)
    parser.single(
        "--controls-of", "RESULTS",
        "add a control for each configuration of a finished sweep, but for those with prompt exits: rule random with "
        "as many exits at each layer", WHERE,
    )  # fmt: skip
    of_controls = (
        "modes of these controls, to compare modes at equal exits (default: the mode of the copied configuration)"
    )
    parser.several("--control-modes", "MODE", of_controls, WHERE, default=None)
    use_flag(parser, WHERE)
    parser.single(
        "--settings-from-replay", "RESULTS",
        "run the settings that a pilot and its replays predict to lose about --within: two in unfrozen, up to four in "
        "a mode that alters the KV cache; with --rules agree, settings of this oracle", WHERE,
    )  # fmt: skip
    of_risk = "risk and its bound for --settings-from-replay, as in answers=0.02"
    parser.single("--within", "RISK=SHARE", of_risk, WHERE)
    parser.switch("--dry-run", "print the plan and stop", OUTPUT)
    quiet_flag(parser, OUTPUT)
    of_json = "write each configuration's means with intervals, overall and by kind of prompt, as JSON"
    parser.single("--json", "FILE", of_json, OUTPUT)
    return parser


def _settings(flags: Mapping[str, Any], results: str | None, within: str | None) -> dict[str, Any]:
    """Return the sweep's fields that select the settings which a pilot predicts to be worth a run.

    `results` is the pilot's folder, and `within` a risk with its bound, such as answers=0.02. The result is empty
    without both. Raise `UsageError` for unusable values, and for flags that select settings too.
    """
    if (results is None) != (within is None):
        raise UsageError("--settings-from-replay RESULTS and --within RISK=SHARE are given together")
    if results is None or within is None:
        return {}
    from eexit.quality.risks import RISKS  # as above
    from eexit.studies.replay.shortlist import ORACLE, settings_worth_running

    of_oracle = flags.get("rules") == [ORACLE]
    if given := [name for name in ("rules", "exit_sets", "kl_factors")[of_oracle:] if name in flags]:
        raise UsageError(f"--settings-from-replay selects the rules, and {flag(given[0])} too: give one of them")
    risk, _, share = within.partition("=")
    if risk not in RISKS or not share.replace(".", "", 1).isdecimal() or not 0 < float(share) < 1:
        known = ", ".join(RISKS)
        raise UsageError(f"--within is a risk and a share, as in answers=0.02, got {within}: risks are {known}")
    modes = flags.get("modes", ())
    exits = settings_worth_running(results, risk, float(share), modes, of_oracle)
    rules: dict[str, list[float]] = {}
    for each in exits:
        parameters = rules.setdefault(each.rule, [])
        if isinstance(each.parameter, float) and each.parameter not in parameters:
            parameters.append(each.parameter)
    sets = list(dict.fromkeys(each.exit_set or EVERY for each in exits))
    keys = [*(mode for mode in modes if mode not in MODES), *(each.key for each in exits)]
    return {"rules": rules, "exit_sets": sets, "only": keys}


def _figures(name: str | None) -> Path | None:
    """Return the path of `--json`. Raise `UsageError` if it can't be written."""
    path = None if name is None else Path(name)
    if path and (path.is_dir() or not next(folder for folder in path.parents if folder.exists()).is_dir()):
        raise UsageError(f"--json {path} can't be written: give the name of a file in a folder")
    return path


def _table(flags: dict[str, Any], default: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and content of the TOML file in `--config`, else of `default`; remove `--config` from `flags`.

    With `--prompts` and no `--config`, no file is read: the content is empty.
    """
    file = flags.pop("config", None)
    if file and "://" in file:
        raise UsageError(f"--config {redact(file)} is a URL: give a local file")
    path = with_package(Path(file or default))
    return path, {} if file is None and "prompts" in flags else _read_toml(path)


def _prompts(flag: str | None, entry: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the source of the prompts, and the prompts, if `--prompts` or the TOML file gives any."""
    if flag is not None:
        return flag, {"prompts": read_prompts(flag)}
    if isinstance(entry, str):
        return (name := str(path.parent / entry)), {"prompts": read_prompts(name)}
    if isinstance(entry, list):
        entry = [_with_id(each, index) for index, each in enumerate(entry)]
    return str(path), {} if entry is None else {"prompts": entry}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {path} can't be read ({error.strerror}): check the name") from error
    except ValueError as error:
        raise UsageError(f"--config {path} is not TOML ({str(error).splitlines()[0]})") from error


def _texts(name: str, value: Any, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{name} in {path} must be a list of texts, got {value!r}")
    return value


def _with_id(entry: Any, index: int) -> Any:
    """Return the entry with its index as its id if it has none; an id may be an integer, as in a file of prompts."""
    if not isinstance(entry, dict):
        return entry
    name = entry.get("id", index)
    is_number = isinstance(name, int) and not isinstance(name, bool)
    return {**entry, "id": str(name) if is_number else name}


def _add_fields(parser: Parser, demo: Mapping[str, Any]) -> None:
    """Add a flag for each of `FIELDS`, described by the field, to the group that lists it.

    The help shows where `demo`, which has the values used without any flag, differs from a field's default.
    """
    title_of = {name: title for title, names in GROUPS.items() for name in names}
    for name in sorted(FIELDS, key=list(title_of).index):
        if name in ("prompts", "controls"):  # read from files and sweeps
            continue
        field, group = FIELDS[name], title_of[name]
        help_text = _help(field, demo.get(name, field.default))
        if field.annotation is bool:
            parser.single(flag(name), None, help_text, group, action="store_const", const="true")
        elif _is_tuple(field.annotation):
            metavar = "N" if _is_number(field.annotation) else name.removesuffix("s").rpartition("_")[2].upper()
            # `extend` keeps both of `--rules agree --rules fixed=10`.
            parser.several(flag(name), metavar, help_text, group, action="extend", default=None)
        else:
            parser.single(flag(name), "N" if _is_number(field.annotation) else name.upper(), help_text, group)


def _split(name: str, values: list[str]) -> list[str]:
    """Split the values of flag `name` at commas, except values with a colon, such as 10,20:2,4 (drafts at two layers).

    Exit sets, configuration keys, thinking marks and file paths are never split.
    """
    is_whole = name in ("exit_sets", "only", "thinking", "use")
    parts = [part for value in values for part in ([value] if is_whole or ":" in value else value.split(","))]
    return [part.strip() for part in parts if part.strip()]


def _help(field: FieldInfo, in_demo: Any) -> str:
    text, default = field.description or "", None if field.is_required() else field.default
    if default is not None and default is not False and default != {}:
        text += f" (default: {_format_default(default)}"
        differs = list(in_demo) != list(default) if isinstance(default, tuple) else in_demo != default
        text += f"; the demo's: {_format_default(in_demo)})" if differs else ")"
    return text.replace("%", "%%")


def _format_default(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{rule}={','.join(f'{number:g}' for number in numbers)}" for rule, numbers in value.items())
    return (" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or "none"


def _is_number(annotation: Any) -> bool:
    parts = () if get_origin(annotation) is dict else get_args(annotation)
    return annotation in (int, float) or any(map(_is_number, parts))


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(argument) for argument in get_args(annotation))
