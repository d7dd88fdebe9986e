"""No part of a key is shown, in whatever form it is echoed."""

import json
import random
from base64 import b64encode
from urllib.parse import quote

import pytest

from eexit.messages.locations import HIDDEN
from eexit.messages.redaction import RUN, redacted

KEY = "sk-proj-Ab3/dE+f_Gh1jKLm2NoPq-RsTuVw=xYz0456789"


def pieces(key: str, length: int = RUN) -> set[str]:
    return {key[at : at + length] for at in range(len(key) - length + 1)}


ECHOES = {
    "as it is": KEY,
    "a prefix": KEY[:20],
    "a suffix": KEY[-9:],
    "eight characters": KEY[10:18],
    "half": KEY[: len(KEY) // 2],
    "upper case": KEY.upper(),
    "over lines": "\n".join([KEY[:10], KEY[10:13], KEY[13:]]),
    "a list": json.dumps([KEY[:7], KEY[7:14], KEY[14:]]),
    "escaped slashes": KEY.replace("/", "\\/"),
    "escaped line ends": json.dumps("\n".join([KEY[:10], KEY[10:]])),
    "escaped characters": "".join(f"\\u{ord(it):04x}" for it in KEY),
    "escaped twice": json.dumps(json.dumps({"key": "".join(f"\\u{ord(it):04x}" for it in KEY)})),
    "in a URL": quote(KEY, safe=""),
    "in a URL, twice": quote(quote(KEY, safe=""), safe=""),
    "all of it in a URL": "".join(f"%{ord(it):02X}" for it in KEY),
    "in HTML": "".join(f"&#{ord(it)};" for it in KEY),
    **{f"base64 after {before!r}": b64encode(f"{before}{KEY}".encode()).decode() for before in ("", "Bearer ", "u:")},
    "a part of base64": b64encode(f"Bearer {KEY}".encode()).decode()[20:40],
}


@pytest.mark.parametrize(("label", "echo"), ECHOES.items(), ids=ECHOES)
def test_what_is_echoed_of_a_key_is_hidden_and_nothing_else(label: str, echo: str) -> None:
    found = redacted(f"You sent é{echo}é, which is wrong.", KEY)
    before, said, after = found.split("é")
    assert (before, after) == ("You sent ", ", which is wrong.")
    assert HIDDEN in said
    assert len(said) <= (18 if "Bearer" in label or "twice" in label else 8)  # what stands around the key
    assert not (pieces(KEY) | pieces(echo[16:])) & pieces(said)


def test_no_text_that_happens_to_be_alike_is_hidden() -> None:
    said = "the model `gpt-4.1-mini` does not exist, or the project has no access to it: sk-proj. 100 % \\u00e9"
    assert redacted(said, KEY) == said
    assert redacted("", KEY) == ""


def test_a_short_key_is_hidden_where_it_stands_as_it_is() -> None:
    assert redacted("the key local, not Local", "local") == "the key …, not Local"


def test_wherever_a_key_is_cut_no_run_of_it_is_left() -> None:
    draw = random.Random(0)
    key = "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", k=368))
    for start in range(0, 290, 7):
        for end in (start + 30, 300, 368):
            assert redacted(f"<<{key[start:end]}>>", key) == "<<…>>"
