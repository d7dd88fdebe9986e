"""Keeping a key out of what is printed and stored, also where an endpoint echoes it in part or in another form.

>>> redacted('no such key: {"sk-abc\\\\u0064e", "fghij"} ', "sk-abcdefghijkl")
'no such key: {"…"} '
"""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Final

from eexit.messages.locations import HIDDEN

RUN: Final = 8  # so many characters of a key in a row are hidden

# One character as a URL, JSON or HTML escapes it, also if that was escaped once more; or as it is.
_CHARACTER = re.compile(
    r"%(?:25)*(?P<url>[0-9a-f]{2})|\\+(?:u00|x)(?P<json>[0-9a-f]{2})|\\+[bfnrt]|&#(?:x(?P<hex>[0-9a-f]+)|(?P<dec>\d+));|.",
    re.IGNORECASE | re.DOTALL,
)


def redacted(text: str, key: str) -> str:
    """The text with the key, and every run of at least `RUN` characters of it, replaced.

    Case does not count, nor do characters between those of a run that are neither alphanumeric nor in the key, such as
    line ends and quotation marks. Runs are found in escaped text and in base64 as well, as of `Bearer KEY`. A key of
    fewer characters is replaced where it stands as it is.
    """
    text = text.replace(key, HIDDEN)
    spans = sorted(span for form in set(_forms(key)) for span in _runs(text, form))
    parts: list[str] = []
    end = 0
    for start, stop in spans:
        if start > end or not parts:
            parts += [text[end:start], HIDDEN]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def _forms(key: str) -> Iterator[str]:
    """The key, and what is certain of base64 of any text that contains it, which depends on how many bytes precede."""
    yield key
    for encode in (b64encode, urlsafe_b64encode):
        for n_before in range(3):
            encoded = encode(b"\0" * n_before + key.encode()).decode().rstrip("=")
            yield encoded[(0, 2, 3)[n_before] : len(encoded) - ((n_before + len(key)) % 3 > 0)]


def _runs(text: str, secret: str) -> Iterator[tuple[int, int]]:
    """Where runs of `RUN` characters of the secret begin and end; they may overlap."""
    own = set(secret.lower())
    hidden = "".join(character for character, _, _ in _characters(secret, own))
    wanted = {hidden[at : at + RUN] for at in range(len(hidden) - RUN + 1)}
    if not wanted:
        return
    found = list(_characters(text, own))
    letters = "".join(character for character, _, _ in found)
    for at in range(len(letters) - RUN + 1):
        if letters[at : at + RUN] in wanted:
            yield found[at][1], found[at + RUN - 1][2]


def _characters(text: str, kept: set[str]) -> Iterator[tuple[str, int, int]]:
    """The characters of a text, unescaped and in lower case, and from where to where each stands.

    Those that are neither alphanumeric nor in `kept` are left out.
    """
    for match in _CHARACTER.finditer(text):
        code = match["url"] or match["json"] or match["hex"]
        number = int(code, 16) if code else int(match["dec"]) if match["dec"] else None
        character = match[0] if number is None else chr(number) if number < 128 else HIDDEN
        character = character.lower() if len(character) == 1 else HIDDEN
        if character.isalnum() or character in kept:
            yield character, match.start(), match.end()
