"""A sweep's arguments from Python. They have the names and the meanings of the command's flags."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, ValidationError
from pydantic_core import PydanticUndefined

from eexit.errors import UsageError
from eexit.method.custom import use_files
from eexit.method.modes import MODES, Mode
from eexit.method.rules import Rule
from eexit.output.text import in_python
from eexit.plan.field_types import Count
from eexit.plan.prompts import prompts_of
from eexit.plan.runs import refuse_unknown_only
from eexit.plan.sweep_config import COMPUTED, SHORT_FIELDS, SweepConfig
from eexit.plan.validation_errors import explain


def _out(out: str) -> str:
    if odd := re.match(r"(\w\w+):/[^/]", out):
        raise ValueError(f"out {odd[1]}:/… is neither a path nor a URI: write {odd[1]}://…")
    return os.path.expanduser(out)


CONTROLS_OF, CONTROLS_IN, USE = "controls_of", "control_modes", "use"
Out = Annotated[StrictStr, Field(min_length=1), AfterValidator(_out)]
Device = Literal["auto", "cpu", "cuda", "mps"]


class SweepSpec(BaseModel):
    """Configuration of a sweep, with its location, device and shard size, which do not change the results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: SweepConfig
    out: Out = Field("results/sweep", description="folder or URI (s3://, gs://) the results go to")
    device: Device = Field("auto", description="auto: CUDA if there is any, else MPS, else CPU")
    rows_per_shard: Count = Field(
        128,
        ge=1,
        description="about how many runs are batched together and written to one file; lower it if memory is short",
    )


Placed = TypeVar("Placed", bound=SweepSpec)


def placed(kind: type[Placed], fields: Mapping[str, Any]) -> Placed:
    """Return a sweep of class `kind` with these values, which are fields of the class or of its configuration.

    Raise `ValidationError` for an unknown name or an invalid value.
    """
    where = {name: value for name, value in fields.items() if name in kind.model_fields and name != "config"}
    config = {name: value for name, value in fields.items() if name not in where}  # SweepConfig refuses unknown names
    return kind.model_validate({"config": config, **where})


def names_of(kind: type[SweepSpec]) -> dict[str, Any]:
    """Return the arguments of a sweep of this kind and their defaults, without prompts."""
    fields = {**SweepConfig.model_fields, **SHORT_FIELDS, **kind.model_fields}
    aside = {"prompts", "controls", "config", *COMPUTED}
    defaults = {name: field.default for name, field in fields.items() if name not in aside}
    return defaults | {USE: (), CONTROLS_OF: "", CONTROLS_IN: ()}


def from_python(kind: type[Placed], prompts: Any, arguments: Mapping[str, Any], call: str) -> Placed:
    """Return the sweep that a call describes, running files in `use`. Raise `UsageError` that names the argument."""
    known = names_of(kind)
    use_files(arguments.get(USE, ()))
    fields = {
        name: _plain(value) for name, value in arguments.items() if value is not known.get(name, kind) and name != USE
    }
    table = with_controls({**fields, "prompts": prompts_of(prompts)})
    try:
        sweep = placed(kind, table)
    except ValidationError as error:
        raise UsageError(explain(error, set(), Path(call), known, table)) from error
    refuse_unknown_only(sweep.config)
    return sweep


def with_controls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with controls in place of the sweep whose exits they copy.

    Raise `UsageError` for modes that can't have controls, and as `controls_of` does.
    """
    others = {name: value for name, value in fields.items() if name not in (CONTROLS_OF, CONTROLS_IN)}
    results, modes = str(fields.get(CONTROLS_OF) or ""), fields.get(CONTROLS_IN) or ()
    if not isinstance(modes, list | tuple):
        raise UsageError(f"--control-modes takes a list of modes, got {modes!r}")
    if modes and not results:
        raise UsageError(f"--control-modes {' '.join(modes)} has no effect: give --controls-of RESULTS")
    if foreign := [mode for mode in modes if mode not in MODES]:
        raise UsageError(f"--control-modes {foreign[0]} is no mode that exits: give some of {', '.join(MODES)}")
    if not results:
        return others
    from eexit.sweeps.controls import controls_of  # imported here, since flags are read without pyarrow

    return {**others, "controls": controls_of(results, modes)}


def signature_of(kind: type[SweepSpec], **own: Any) -> Signature:
    """Return the signature, for `help`, of a function of prompts and keyword arguments; `own` has further defaults."""
    given = {name: None if default is PydanticUndefined else default for name, default in names_of(kind).items()}
    named = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in {**given, **own}.items()]
    return Signature([Parameter("prompts", Parameter.POSITIONAL_OR_KEYWORD), *named])


@contextmanager
def arguments_named(kind: type[SweepSpec]) -> Iterator[None]:
    """Convert a `UsageError` to one that names arguments in place of flags: `max_new_tokens` for `--max-new-tokens`."""
    try:
        yield
    except UsageError as error:  # the new one has its cause, so that the original error is shown once
        raise UsageError(in_python(str(error), (*names_of(kind), "prompts"))) from error.__cause__


def _plain(value: Any) -> Any:
    """Return arrays, ranges and paths as lists and texts, and custom rules and modes as names, registering them."""
    if isinstance(value, Rule | Mode):
        value.register()
        return value.name
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): () if each is None else _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [*map(_plain, value)]
    return value.tolist() if hasattr(value, "tolist") else value
