"""Numbers of the study as FINDINGS.md writes them, and its tables."""

from collections.abc import Sequence

from eexit.quality.estimates import Estimate


def rows_at(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch} rows"


def share_of(share: Estimate) -> str:
    return f"{100 * share.mean:z.1f} % ({100 * share.low:z.1f} to {100 * share.high:z.1f})"


def points_of(share: Estimate) -> str:
    return f"{100 * share.mean:+z.1f} ({100 * share.low:+z.1f} to {100 * share.high:+z.1f})"


def fine_points_of(share: Estimate) -> str:
    return f"{100 * share.mean:+z.2f} ({100 * share.low:+z.2f} to {100 * share.high:+z.2f})"


def percent_of(share: float) -> str:
    return f"{100 * share:z.1f} %"


def times_of(time: Estimate) -> str:
    return f"{time.mean:.2f} times ({time.low:.2f} to {time.high:.2f})"


def p_of(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *rows))
