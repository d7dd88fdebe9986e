"""The table that ends a judging: mean scores of each configuration, and how its texts compare with those of normal."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from rich import box
from rich.table import Table

from eexit.configuration import NORMAL
from eexit.rubric import ASPECTS, THIS, TIE
from eexit.schema import OK

HEADINGS: Final = ("co-\nherence", "complete-\nness", "clarity", "no repe-\ntition")
PAIRED: Final = ("prompts\ncompared", f"better than\n{NORMAL}", "tie", "win rate")
CAPTION: Final = (
    "Means over prompts, of which n is the number; seeds of a prompt are averaged first. Scores from 1 to 5, higher is "
    "better."
)
PAIRED_CAPTION: Final = f" Win rate: better than {NORMAL}, and half of the ties: 50 % if the judge sees no difference."


@dataclass(frozen=True)
class OfConfiguration:
    """What a judge says of a configuration: means over prompts; None where nothing was judged."""

    key: str
    n: int  # prompts with scores
    scores: Mapping[str, float | None]
    n_compared: int  # prompts
    better: float | None
    tie: float | None

    @property
    def win_rate(self) -> float | None:
        return None if self.better is None or self.tie is None else self.better + self.tie / 2


def by_configuration(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[OfConfiguration]:
    """`rows` are those of one judge and rubric that count (`eexit.judgements`)."""
    ok: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == OK:
            ok[row["configuration"]].append(row)
    return [_of_configuration(key, ok[key]) for key in keys]


def judgements_table(found: Iterable[OfConfiguration]) -> Table:
    found = list(found)
    is_paired = any(its.n_compared for its in found)
    caption = CAPTION + (PAIRED_CAPTION if is_paired else "")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("configuration", overflow="fold")
    for heading in ("n", *HEADINGS, *(PAIRED if is_paired else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for its in found:
        paired = [f"{its.n_compared:,}", *(_percent(share) for share in (its.better, its.tie, its.win_rate))]
        scores = ["–" if mean is None else f"{mean:.2f}" for mean in its.scores.values()]
        table.add_row(its.key, f"{its.n:,}", *scores, *(paired if is_paired else []))
    return table


def _of_configuration(key: str, rows: Sequence[Mapping[str, Any]]) -> OfConfiguration:
    scored = [row for row in rows if row[ASPECTS[0]] is not None]
    compared = [row for row in rows if row["preferred"] is not None]
    shares = {which: [{**row, "is": float(row["preferred"] == which)} for row in compared] for which in (THIS, TIE)}
    return OfConfiguration(
        key,
        n=len({row["prompt_id"] for row in scored}),
        scores={name: _over_prompts(scored, name) for name in ASPECTS},
        n_compared=len({row["prompt_id"] for row in compared}),
        better=_over_prompts(shares[THIS], "is"),
        tie=_over_prompts(shares[TIE], "is"),
    )


def _over_prompts(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean over prompts of the means over each prompt's seeds."""
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        of_prompt[row["prompt_id"]].append(row[name])
    return fmean(map(fmean, of_prompt.values())) if of_prompt else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
