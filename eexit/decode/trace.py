"""What a row generated, with what was run for it."""

from dataclasses import dataclass

from eexit.decode.costs.counting import Counts
from eexit.decode.costs.draft_rounds import Rounds
from eexit.results.token_columns import TokenColumns


@dataclass(frozen=True, kw_only=True)
class Trace(TokenColumns):
    """What a row generated, and what was run for it."""

    counts: Counts | None  # None beside a teacher, whose passes rows share
    rounds: Rounds | None  # of mode draft
