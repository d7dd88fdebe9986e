"""Folders and URIs as text, with the secrets of a URI redacted where they are shown.

>>> redact("s3://KEY:SECRET@bucket/mine?region=eu-north-1")
's3://…@bucket/mine?…'
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import parse_qsl, urlencode

from eexit.errors import UsageError

HIDDEN: Final = "…"
S3_SCHEMES: Final = ("s3", "s3a", "s3n")
PUBLIC_OPTIONS: Final = ("scheme", "endpoint_override", "region")  # URI options that readers need; none is secret
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PUNCTUATION = "\"'`.,:;()[]{}<>"


def path_from(value: object, name: str) -> Path:
    """Return a user's path with `~` expanded; `name` is the argument's name in messages.

    Raises: `UsageError` if the value is neither text nor a path.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise UsageError(f"{name} must be a path, as text or a Path, got {value!r}")
    return Path(path).expanduser()


def redact(location: str) -> str:
    """Return a folder unchanged, or a URI without user, password and options, for messages and logs.

    If a secret has reserved characters without percent-encoding, such as `/`, more of the URI is hidden.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return location
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    has_user = "@" in authority or re.search(r":(?!\d*$)", authority) is not None
    path = rest.partition("?")[0]
    if not has_user:
        user = ""
    elif "@" in rest:
        user = f"{HIDDEN}@"
        path = path.rpartition("@")[2] if "@" in path else rest.rpartition("@")[2].partition("?")[0]
    else:
        user, path = HIDDEN, path[len(authority) :]
    return f"{scheme}://{user}{path}" + (f"?{HIDDEN}" if "?" in rest else "")


def without_secrets(text: str) -> str:
    """Return the text with each URI redacted by `redact`."""

    def show(found: re.Match[str]) -> str:
        uri = found[0].rstrip(_PUNCTUATION)
        return redact(uri) + found[0][len(uri) :]

    return _URI.sub(show, text)


def inside(location: str, name: str) -> str:
    """Return the path of a name in a folder or under a URI, with the URI's options at the end."""
    if "://" not in location:
        return f"{location.rstrip('/')}/{name}"
    path, question, options = location.partition("?")
    return f"{path.rstrip('/')}/{name}{question}{options}"


def folders_by_name(models: Sequence[str], out: str) -> list[str]:
    """Return a folder in `out` for each model, by the end of its name. Raise `UsageError` if two have the same."""
    names = [PurePath(model or "model").name.removesuffix(".gguf") for model in models]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            f"two models would have the folder {repeated[0]} of --out: give them one by one, each with an --out"
        )
    return [inside(out, name) for name in names]


def read_snippet(location: str, table: str, name: str = "", then: str = "") -> str:
    """Return a line of Python that reads a table of results, applies `then` to it and assigns it to `name`.

    The line has no secrets; if the URI has some, a comment names what to set.
    """
    where, hint = inside(location, table), ""
    if (uri := redact(where)) != where:
        scheme = where.partition("://")[0]
        options = [(name, text) for name, text in parse_qsl(where.partition("?")[2]) if name in PUBLIC_OPTIONS]
        where = uri.removesuffix(f"?{HIDDEN}") + (f"?{urlencode(options, safe='/:')}" if options else "")
        if scheme in S3_SCHEMES and f"//{HIDDEN}" in where:
            where = where.replace(f"{HIDDEN}@", "", 1)
            hint = "  # with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set to what --out carries"
        elif HIDDEN in where:
            hint = f"  # with {HIDDEN} as it is in --out"
    given = f"{name} = " if name else ""
    return f'import pandas as pd; {given}pd.read_parquet("{where}"){then}{hint}'
