"""How often a sweep's texts have the right answer, and how that differs from full depth on the same prompts."""

import pandas as pd

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import ENDS
from reports.frames.axes import CORRECT
from reports.frames.runs import paired_differences, trade_off
from reports.read.sweep import Sweep


def accuracy(sweep: Sweep, baseline: str = NORMAL) -> pd.DataFrame:
    """One row per configuration: `accuracy` over the prompts that bring answers, and its `difference` from `baseline`.

    Seeds are averaged first, `n_seeds` of them; both have their interval over prompts and its n, and the difference is
    that of the same prompts and seeds. `gained` and `lost` are how many prompts are right here alone and there alone,
    and `p` is that of McNemar's exact test (NaN where seeds or groups are averaged). `accuracy_control` is that of the
    configuration's control, if there is one. `baseline` is as in `frames.paired_differences`.
    `accuracy(sweep.reporting)` is that of the prompts for reporting. Without answers, the frame is empty.
    """
    if not sweep.has_answers:
        return pd.DataFrame()
    trade, paired = trade_off(sweep), paired_differences(sweep, baseline)
    ends = [end for end in (*ENDS, "_control") if f"{CORRECT}{end}" in trade]
    names = {f"{CORRECT}{end}": f"accuracy{end}" for end in ends}
    identity = list(trade.columns[: trade.columns.get_loc("n")])
    frame = trade[[*identity, "n_failed", "n_seeds", *names]].rename(columns=names)
    beside = {f"{CORRECT}{end}": f"difference{end}" for end in ENDS}
    beside |= {f"{CORRECT}_{name}": name for name in ("gained", "lost", "p")}
    if paired.empty:
        return frame.assign(**dict.fromkeys(beside.values(), float("nan")))
    differences = paired[["configuration", *beside]].rename(columns=beside)
    return frame.merge(differences, on="configuration", how="left")
