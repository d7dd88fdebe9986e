"""Which settings were chosen, and which are certified."""

from typing import Final

import pandas as pd

from eexit.messages.written import short_percent

QUESTION: Final = ["risk", "at_most", "confidence", "cost_by"]


def latest_choices(choices: pd.DataFrame) -> pd.DataFrame:
    """The latest answer to each question: a risk, its bound, a confidence and a cost."""
    return choices.drop_duplicates(QUESTION, keep="last").reset_index(drop=True)


def chosen_words(choices: pd.DataFrame, chosen: bool) -> dict[str, str]:
    """Configuration → for which bounds it was `chosen`, or else is certified."""
    found: dict[str, dict[str, None]] = {}
    for row in choices.to_dict("records"):
        certified = [setting["configuration"] for setting in row["tested"] if setting["certified"]]
        for key in [row["configuration"]] if chosen else certified:
            if isinstance(key, str):
                found.setdefault(key, {})[f"{row['risk']} ≤ {short_percent(row['at_most'])}"] = None
    return {key: ", ".join(words) for key, words in found.items()}
