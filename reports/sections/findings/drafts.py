"""What drafts gained, as sentences: which is fastest, and whether it certainly beats plain decoding; or that none does.

Plain decoding is `normal`, full depth on the same path, and the `generate` of transformers: a draft has to beat both.
"""

from collections.abc import Iterator

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.messages.written import is_known
from eexit.plan.configuration import GENERATE
from reports.frames.drafts import Drafts
from reports.read.timings import Measured
from reports.sections.findings.numbers import Row, times, with_interval


def draft_findings(drafts: Drafts, sampled: bool) -> list[str]:
    """A text per batch size that was timed, then what was accepted, and whether the texts are those of `normal`.

    If nothing was timed, the expected speed-up comes first, and is called so.
    """
    rows = drafts.drafts.to_dict("records")
    timed = [" ".join(_timed(drafts, rows, measured)) for measured in drafts.measured]
    return [*(timed or [" ".join(_expected(rows))]), *_accepted(rows), *_texts(drafts, sampled)]


def _timed(drafts: Drafts, rows: list[Row], measured: Measured) -> Iterator[str]:
    speedup, over = measured.column("speedup"), measured.column("over_generate")
    known = [row for row in rows if is_known(row[speedup])]
    best = next(row for row in known if row[measured.column("fastest")])
    yield _verdict(best, speedup, over).format(where=measured.label)
    drafts_timed, rounds = counted(len(known), "draft"), counted(int(best[f"{speedup}_n"]), "round")
    told = times(best, speedup)
    yield findings.FASTEST_DRAFT.format(pair=best["pair"], drafts=drafts_timed, times=told, n=rounds)
    yield findings.OVER_GENERATE.format(times=times(best, over)) if is_known(best[over]) else findings.GENERATE_UNTIMED
    of_generate = drafts.rows[drafts.rows["configuration"].str.startswith(f"{GENERATE}/")].to_dict("records")
    fastest = max((row for row in of_generate if is_known(row[speedup])), key=lambda row: row[speedup], default=None)
    if fastest:
        layer = f"{fastest['draft_layer']:.0f}"
        yield findings.GENERATE_DRAFTS.format(layer=layer, times=times(fastest, speedup))


def _verdict(best: Row, speedup: str, over: str) -> str:
    """Whether the fastest draft beats plain decoding: both ways of it that were timed, and so the faster one."""
    beside = [name for name in (speedup, over) if is_known(best[name])]
    if all(is_known(best[f"{name}_low"]) and best[f"{name}_low"] > 1 for name in beside):
        return findings.BEATS
    if any(best[name] <= 1 for name in beside):
        return findings.BEATS_NOT
    has_intervals = all(is_known(best[f"{name}_low"]) for name in beside)
    return findings.MAY_BEAT if has_intervals else findings.BEATS_IN_FEW_ROUNDS


def _expected(rows: list[Row]) -> Iterator[str]:
    known = [row for row in rows if is_known(row["expected"])]
    if known:
        best = max(known, key=lambda row: row["expected"])
        low = best["expected_low"] if is_known(best["expected_low"]) else best["expected"]
        certain = findings.WOULD_BEAT if low > 1 else findings.MAY_BE_FASTER
        yield certain if best["expected"] > 1 else findings.WOULD_NOT_BEAT
        n = counted(best["n"], "prompt")
        yield findings.EXPECTED.format(pair=best["pair"], times=times(best, "expected"), n=n)
        yield findings.IF_FREE
    yield findings.DRAFTS_UNTIMED


def _accepted(rows: list[Row]) -> Iterator[str]:
    """The pairs of highest and lowest acceptance."""
    known = [row for row in rows if is_known(row["acceptance"])]
    if not known:
        return
    best, worst = (end(known, key=lambda row: row["acceptance"]) for end in (max, min))
    alike = len(known) > 1 and best["acceptance"] == worst["acceptance"]
    for pair, row in ({"every pair": best} if alike else {row["pair"]: row for row in (best, worst)}).items():
        n = counted(row["n"], "prompt")
        yield findings.ACCEPTED.format(share=with_interval(row, "acceptance"), pair=pair, n=n)


def _texts(drafts: Drafts, sampled: bool) -> Iterator[str]:
    """Whether each draft's text is that of `normal`, as it must be if nothing is rounded otherwise."""
    runs = counted(drafts.n_texts, "run")
    if sampled:
        yield findings.SAMPLED_DRAFTS
    elif drafts.n_other_texts:
        yield f"{findings.OTHER_TEXTS.format(n=f'{drafts.n_other_texts:,}', runs=runs)} {findings.NEAR_TIES}"
    elif drafts.n_texts:
        yield findings.SAME_TEXTS.format(runs=runs)
