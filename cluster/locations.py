"""Where results lie, for all nodes. Needs no Ray, which takes a second to import."""

import json
import os

from eexit.messages.errors import UsageError


def location_for_all(out: str, flag: str = "--out") -> str:
    """The location of results as a URI or an absolute path; `flag` is the one that named it, for messages.

    Raises `UsageError` for a relative path in a job whose working directory Ray removes.
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
