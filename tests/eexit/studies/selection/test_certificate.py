"""What is printed of a choice: the tested settings, what was counted, the check, and the certificate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from selecting import ALONE, CONFIG, PROMPTS, land, printed

from eexit.plan.runs import Run

ONE_LOST_IN_TEN = """
                                    of              of those that   p of
 setting             mean loss prompts  n      p normal has right  these enough cost certified
 ─────────────────────────────────────────────────────────────────────────────────────────────
 skip/confidence/0.9      1.5%   6.38% 40 0.0012             1.5% 0.0012      –  70% yes

Tested from safe to bold, until one is not certified. Loss of a prompt: 1 where full depth
answers correctly and the setting does not, else 0, over all prompts that have an answer. Mean
loss: over n calibration prompts. p: that the risk is above the bound (bets against it, prompt
by prompt). Enough: calibration prompts that would certify it with probability 80%, if losses
stay as they are. Cost: multiply-adds of what was run, as a share of those of full depth.
Groups differ in size and count once each: mean loss, n, p and enough are of groups, and of
prompts is the mean loss over single prompts.

 counted
 ────────────────────────────────────────────────────────
 seeds, averaged first                                  1
 prompts that belong to a group                        80
 groups, each of which counts once                      8
 right answers of normal                             100%
 its texts that max_new_tokens cut                   100%
 right answers of the certified setting             98.5%
 of its texts, those that max_new_tokens cut         100%
 its texts that are not those of normal                0%
 its time, which eexit timings measures      not measured


                                     mean loss, mean loss,
 choice    setting             cost calibration       test n at most    p
 ────────────────────────────────────────────────────────────────────────
 certified skip/confidence/0.9  70%        1.5%       2.5% 8     48% 0.28
 naive     skip/confidence/0.9  70%        1.5%       2.5% 8     48% 0.28

On n test prompts, which had no part in the selection. At most: the risk
by these alone, with the same confidence. p: that it is above the bound.
Naive: the cheapest setting whose mean loss is within the bound, which has
no guarantee.
Use 1 of these prompts, of 1 planned: its error budget is 4.75%, that of all uses 5%.
Certified: skip/confidence/0.9, the cheapest that is, at 70% of full depth.
With 95% confidence, over prompts like these, the share of prompts whose answer full depth gets
right and the setting gets wrong, averaged over groups of prompts that count once each, is at most
20%.
n = 40 groups, mean 1.5%, p = 0.0012.
That is of groups: over their 94 prompts the mean is 6.38%, for which nothing is certified.
That is of all groups: of the 40 where full depth has one right, it loses 1.5%, for which nothing is
certified (p = 0.0012).
"""


def test_a_certificate_of_answers_and_groups_is_printed(tmp_path: Path) -> None:
    """Eight groups of ten prompts and forty alone: of each group, one prompt in ten is lost."""
    groups = [*(f"{at // 10}" for at in range(80)), *[None] * 40]
    prompts = [replace(each, answer="4", group=group) for each, group in zip(ALONE.prompts, groups, strict=True)]
    lost, config = {("skip", prompt) for prompt in PROMPTS[:80:10]}, ALONE.model_copy(update={"prompts": (*prompts,)})

    def numbers(run: Run) -> dict[str, Any]:
        return {"correct": (run.configuration.mode, run.prompt.prompt) not in lost, "lcs_share": 1.0}

    out = land(tmp_path / "out", config, numbers)
    assert printed(out, risk="answers", max_risk=0.2) == ONE_LOST_IN_TEN.splitlines()[1:]


def test_families_what_is_left_out_and_that_none_is_certified_are_printed(tmp_path: Path) -> None:
    lines = printed(land(tmp_path / "a" / "out", CONFIG), max_risk=0.1)
    assert " skip/confidence/0.5        30% 91       1      –  40% no: stopped here" in lines
    assert lines[-7:-5] == [
        "Left out: skip/agree: no order from conservative to bold, which a sequence of tests needs.",
        "Left out: skip/kl: oracles save nothing at run time; --cost needed or --cost depth compares them.",
    ]
    lines = printed(land(tmp_path / "b" / "out", CONFIG), keys=["skip/confidence/0.5"])
    assert lines[-3:] == [
        "No setting is certified with 95% confidence that the mean share of tokens unlike full depth's is at",
        "most 5%.",
        "Use normal. A setting without any loss would be certified with 60 calibration prompts.",
    ]
