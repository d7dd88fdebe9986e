"""What drafts gained, as sentences: which is fastest, and whether it certainly beats plain decoding; or that none does.

Plain decoding is `normal`, full depth on the same path, and the `generate` of transformers: a draft has to beat both.
"""

from collections.abc import Iterator
from typing import Any, Final

from eexit.messages.wording import counted
from eexit.plan.configuration import GENERATE, NORMAL
from eexit.studies.timing.speedups import MIN_ROUNDS
from reports.frames.drafts import Drafts
from reports.read.timings import Measured
from reports.sections.findings.sweep import is_known, with_interval

IF_FREE: Final = "if a call of a layer or of the head takes as long for several tokens as for one"
UNTIMED: Final = "How fast drafts really are was not measured: python jobs/timings.py RESULTS does that."
SAMPLED: Final = "Tokens are sampled: a draft's text differs from that of normal, but has the same distribution."
Row = dict[Any, Any]


def draft_findings(drafts: Drafts, sampled: bool) -> list[str]:
    """One sentence per batch size that was timed, then what was accepted, and whether the texts are those of `normal`.

    If nothing was timed, the expected speed-up comes first, and is called so.
    """
    rows = drafts.drafts.to_dict("records")
    timed = [" ".join(_timed(drafts, rows, measured)) for measured in drafts.measured]
    return [*(timed or _expected(rows)), *_accepted(rows), *([SAMPLED] if sampled else _same(drafts))]


def _timed(drafts: Drafts, rows: list[Row], measured: Measured) -> Iterator[str]:
    speedup, over = measured.column("speedup"), measured.column("over_generate")
    known = [row for row in rows if is_known(row[speedup])]
    best = next(row for row in known if row[measured.column("fastest")])
    found = f"{_times(best, speedup)} as fast as {NORMAL}"
    if is_known(best[over]):
        found += f" and {_times(best, over)} as fast as the {GENERATE} of transformers"
    of = f"the fastest of {counted(len(known), 'draft')}" if len(known) > 1 else "the only draft"
    expected = best[measured.column("expected_timed")]
    aside = f" (expected: {expected:.2f} times {NORMAL})" if is_known(expected) else ""
    rounds = counted(int(best[f"{speedup}_n"]), "round")
    yield (
        f"At {measured.label} (median of {rounds}), {_verdict(best, speedup, over)}: {best['pair']}, {of}, is {found}"
        f"{aside}."
    )
    if not is_known(best[over]):
        yield f"The {GENERATE} of transformers was not timed beside it."
    yield from _transformers(drafts, measured)


def _verdict(best: Row, speedup: str, over: str) -> str:
    """Whether the fastest draft beats plain decoding: both ways of it that were timed, and so the faster one."""
    beside = [name for name in (speedup, over) if is_known(best[name])]
    if all(is_known(best[f"{name}_low"]) and best[f"{name}_low"] > 1 for name in beside):
        return "a draft certainly beats plain decoding"
    if any(best[name] <= 1 for name in beside):
        return "no draft beats plain decoding"
    if not all(is_known(best[f"{name}_low"]) for name in beside):
        return f"a draft is faster than plain decoding, but fewer than {MIN_ROUNDS} rounds are too few to be certain"
    return "no draft certainly beats plain decoding"


def _transformers(drafts: Drafts, measured: Measured) -> Iterator[str]:
    """What the `generate` of transformers gains where it drafts itself."""
    speedup = measured.column("speedup")
    of_generate = drafts.rows[drafts.rows["configuration"].str.startswith(f"{GENERATE}/")]
    known = [row for row in of_generate.to_dict("records") if is_known(row[speedup])]
    if known:
        best = max(known, key=lambda row: row[speedup])
        yield (
            f"The {GENERATE} of transformers that drafts after layer {best['draft_layer']:.0f} itself "
            f"(assistant_early_exit) is {_times(best, speedup)} as fast as {NORMAL}."
        )


def _expected(rows: list[Row]) -> Iterator[str]:
    known = [row for row in rows if is_known(row["expected"])]
    if known:
        best = max(known, key=lambda row: row["expected"])
        low = best["expected_low"] if is_known(best["expected_low"]) else best["expected"]
        said = "the fastest draft" if low > 1 else f"no draft is certain to be faster than {NORMAL}; the fastest"
        said = said if best["expected"] > 1 else f"no draft would be faster than {NORMAL}; the fastest"
        yield (
            f"Expected, not measured: {said}, {best['pair']}, would be {with_interval(best, 'expected', '.2f')} "
            f"times as fast as {NORMAL} {IF_FREE} (n = {counted(best['n'], 'prompt')})."
        )
    yield UNTIMED


def _accepted(rows: list[Row]) -> Iterator[str]:
    """The pairs of highest and lowest acceptance."""
    known = [row for row in rows if is_known(row["acceptance"])]
    if not known:
        return
    best, worst = (end(known, key=lambda row: row["acceptance"]) for end in (max, min))
    alike = len(known) > 1 and best["acceptance"] == worst["acceptance"]
    told = {"every pair": best} if alike else {row["pair"]: row for row in (best, worst)}
    shares = [f"{with_interval(row, 'acceptance')} of the tokens that {pair} drafted" for pair, row in told.items()]
    yield f"Full depth agreed with {' and '.join(shares)} (n = {counted(best['n'], 'prompt')})."


def _same(drafts: Drafts) -> Iterator[str]:
    """Whether each draft's text is that of `normal`, as it must be if nothing is rounded otherwise."""
    if drafts.n_other_texts:
        yield (
            f"In {drafts.n_other_texts:,} of {counted(drafts.n_texts, 'run')} a draft's text is not that of {NORMAL}: "
            "rounding decides near ties of two tokens, above all in 16 bits."
        )
    elif drafts.n_texts:
        yield f"Every draft's text is that of {NORMAL}, token for token ({counted(drafts.n_texts, 'run')})."


def _times(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}" + (f" [{low:.2f}, {high:.2f}]" if is_known(low) else "") + " times"
