"""A sweep with the settings of its execution. Needs no Ray, whose import takes a second."""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

from eexit.errors import UsageError
from eexit.plan.config import SHORT_FIELDS, SweepConfig
from eexit.plan.field_types import Count, Float
from eexit.sweeps.arguments import SweepSpec, placed


def _whole_or_fraction(gpus: float) -> float:
    if 0 < gpus < 0.01 or (gpus > 1 and gpus % 1):
        raise ValueError(f"gpus_per_actor must be a whole number or a fraction from 0.01 to 1, got {gpus:g}")
    return gpus


GPUs = Annotated[Float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_or_fraction)]


class SweepJob(SweepSpec):
    """A sweep, and the settings of its execution, which do not change its results."""

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
        None,
        description="GPUs of each actor, or a fraction of one; by default 1 if there are any. A model is spread over "
        "several",
    )
    accelerator_type: tuple[str, ...] | None = Field(
        None, min_length=1, description="GPU types as Ray names them (A100, L4, …), with a pool of actors for each"
    )
    timeout: Float | None = Field(
        None,
        gt=0,
        description="seconds after which to give up on loading, on a single run, and on a shard without a new token",
    )


EXECUTION_FIELDS: dict[str, FieldInfo] = {
    name: field for name, field in SweepJob.model_fields.items() if name != "config"
}
# All flags and all keys of a TOML file.
FIELDS: dict[str, FieldInfo] = {
    name: field
    for name, field in {**SweepConfig.model_fields, **SHORT_FIELDS, **EXECUTION_FIELDS}.items()
    if name != "digests"
}


def job_of(fields: Mapping[str, Any]) -> SweepJob:
    """Return the job with these values of `FIELDS`, for the sweep and its execution alike. Raise `ValidationError`."""
    return placed(SweepJob, fields)


def location_for_all(out: str, flag: str = "--out") -> str:
    """Return the location of results as a URI or an absolute path; `flag` names it in messages.

    Raise `UsageError` for a relative path in a job whose working directory Ray removes.
    """
    if "://" in out or os.path.isabs(out):
        return out
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if (submitted.get("runtime_env") or {}).get("working_dir"):
        raise UsageError(
            f"{flag} {out} is relative, and this job's working directory is a copy that Ray removes: "
            "give an absolute path or a URI"
        )
    return os.path.abspath(out)
