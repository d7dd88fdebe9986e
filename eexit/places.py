"""Where results are, as text: a folder or a URI, shown without the secrets that a URI may carry.

>>> shown("s3://KEY:SECRET@bucket/mine?region=eu-north-1")
's3://…@bucket/mine?…'
"""

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode

HIDDEN: Final = "…"
S3_SCHEMES: Final = ("s3", "s3a", "s3n")
PUBLIC_OPTIONS: Final = ("scheme", "endpoint_override", "region")  # what a reader needs, and nobody has to hide
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PUNCTUATION = "\"'`.,:;()[]{}<>"


def shown(place: str) -> str:
    """A folder as it is, a URI without user, password and options. For people and logs.

    Hides rather more than less where a secret holds characters that a URI would write otherwise, such as `/`.
    """
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
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
    """A text in which every URI is as `shown` shows it."""

    def show(found: re.Match[str]) -> str:
        uri = found[0].rstrip(_PUNCTUATION)
        return shown(uri) + found[0][len(uri) :]

    return _URI.sub(show, text)


def inside(place: str, name: str) -> str:
    """A name in a folder or under a URI, whose options stay at its end."""
    if "://" not in place:
        return f"{place.rstrip('/')}/{name}"
    path, question, options = place.partition("?")
    return f"{path.rstrip('/')}/{name}{question}{options}"


def reading(place: str, table: str) -> str:
    """The line of Python that reads a table of results.

    It holds no secrets: where a URI carries them, the line says what to set before it works.
    """
    where, hint = inside(place, table), ""
    if (uri := shown(where)) != where:
        scheme = where.partition("://")[0]
        options = [(name, text) for name, text in parse_qsl(where.partition("?")[2]) if name in PUBLIC_OPTIONS]
        where = uri.removesuffix(f"?{HIDDEN}") + (f"?{urlencode(options, safe='/:')}" if options else "")
        if scheme in S3_SCHEMES and f"//{HIDDEN}" in where:
            where = where.replace(f"{HIDDEN}@", "", 1)
            hint = "  # with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set to what --out carries"
        elif HIDDEN in where:
            hint = f"  # with {HIDDEN} as it is in --out"
    return f'import pandas as pd; pd.read_parquet("{where}"){hint}'
