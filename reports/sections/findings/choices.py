"""The settings that `jobs/choose.py` chose: which, with which guarantee, and how they do on held-out prompts."""

from typing import Final

import pandas as pd

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.messages.written import is_known
from eexit.studies.choosing.words import told_choice

MOST_TOLD: Final = 6  # questions; the latest are told


def choice_findings(choices: pd.DataFrame) -> list[str]:
    """What was chosen and with which guarantee, or plainly that nothing can be, one text for each question."""
    rows = choices.to_dict("records")
    said = [" ".join(told_choice(row)) for row in rows[-MOST_TOLD:]]
    if len(rows) > 1:
        latest = [findings.LATEST_ARE_TOLD.format(n=MOST_TOLD)] * (len(rows) > MOST_TOLD)
        asked = findings.QUESTIONS.format(questions=counted(len(rows), "question"))
        shares_nothing = not all(is_known(row.get("error")) for row in rows)  # as asks of older versions
        said.append(" ".join([asked, *[findings.BEST_OF_SEVERAL] * shares_nothing, *latest]))
    return said
