"""The facts and words of `tables.toml`, which prompts are made of."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

_TABLES: Final[Mapping[str, Mapping[str, Any]]] = tomllib.loads(
    files(__package__).joinpath("tables.toml").read_text("utf-8")
)
CATEGORIES: Final[Mapping[str, Sequence[str]]] = _TABLES["categories"]
WORDS: Final[Mapping[str, Sequence[str]]] = _TABLES["words"]
CAPITALS: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["capitals"].items())
CONTINENTS: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["continents"].items())
OPPOSITES: Final[Sequence[tuple[str, str]]] = tuple(_TABLES["opposites"].items())
CITIES: Final = tuple(city for _, city in CAPITALS)
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
