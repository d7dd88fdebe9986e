"""A sweep with the settings of its execution. Needs no Ray, whose import takes a second."""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

from eexit.errors import UsageError
from eexit.plan.field_types import Count, Float
from eexit.plan.sweep_config import COMPUTED, SHORT_FIELDS, SweepConfig
from eexit.sweeps.arguments import SweepSpec, placed


def _whole_or_fraction(gpus: float) -> float:
    if 0 < gpus < 0.01 or (gpus > 1 and gpus % 1):
        raise ValueError(f"gpus_per_actor must be a whole number or a fraction from 0.01 to 1, got {gpus:g}")
    return gpus


GPUs = Annotated[Float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_or_fraction)]


class SweepJob(SweepSpec):
    """Sweep with its execution settings, which do not change its results."""

    actors: Count | None = Field(
        None,
        ge=1,
        description="Ray actors, which each load the model (default: one per GPU or per 8 CPUs; more, with fewer CPUs, "
        "if there are 100 runs and enough memory)",
    )
    cpus_per_actor: Float | None = Field(
        None, ge=0.01, allow_inf_nan=False, description="CPUs and threads per actor (default: an equal share)"
    )
    gpus_per_actor: GPUs | None = Field(
        None, description="GPUs per actor, or a fraction of one (default: 1 if there are any); several share one model"
    )
    accelerator_type: tuple[str, ...] | None = Field(
        None, min_length=1, description="GPU types as Ray names them (A100, L4, …); one pool of actors per type"
    )
    timeout: Float | None = Field(
        None, gt=0, description="limit in seconds for loading, for a single run, and for a shard without a new token"
    )


EXECUTION_FIELDS: dict[str, FieldInfo] = {
    name: field for name, field in SweepJob.model_fields.items() if name != "config"
}
# All flags and all keys of a TOML file.
FIELDS: dict[str, FieldInfo] = {
    name: field
    for name, field in {**SweepConfig.model_fields, **SHORT_FIELDS, **EXECUTION_FIELDS}.items()
    if name not in COMPUTED
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
