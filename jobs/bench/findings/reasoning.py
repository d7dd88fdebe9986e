"""The section of FINDINGS.md on chains of thought: what leaving early does to them, and whether answers need them.

Another model, which reasons: settings, each beside the control that exits as often at each layer, whatever the token.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

from cluster.assessment.outcome.figures import controls_by_setting
from eexit.plan.configuration import NORMAL
from eexit.plan.splits import units
from eexit.quality.estimates import ENDS, Estimate
from eexit.quality.per_right import COST_NEEDED, PerRight, per_right
from eexit.quality.risk_tests import POWER
from eexit.results.study_tables import CHAINS
from findings import words
from findings.parts import gained_and_lost
from findings.study import REASONING, StudySweep
from findings.words import percent_of, points_of, share_of, table_of, times_of

NONE: Final = "keep-0"
KEPT: Final = ("keep-50", "filler", NONE)


class Reasoned(StudySweep):
    """A sweep of prompts that need steps, and what became of its answers when chains were taken away."""

    @cached_property
    def needs(self) -> dict[tuple[str, str, int | None], dict[str, Any]]:
        """By configuration, what became of the chains, and the number of steps; None: of all prompts."""
        return {(row["configuration"], row["chain"], row["steps"]): row for row in CHAINS.rows(self.finished.store)}

    @cached_property
    def taken(self) -> dict[str, PerRight]:
        """What a right answer takes in multiply-adds, if deciding were free: an oracle has no other costs."""
        found = per_right(self.finished.runs, units(self.finished.manifest.config["prompts"]))
        return {key: each[COST_NEEDED] for key, each in found.items()}

    @cached_property
    def control_of(self) -> dict[str, str]:
        """Setting → its control."""
        return controls_by_setting(self.finished)

    def need(self, key: str, chain: str = NONE, name: str = "necessity", steps: int | None = None) -> Estimate:
        row = self.needs[key, chain, steps]
        return Estimate(*(row[f"{name}{end}"] for end in ENDS))

    def thought(self, key: str) -> float:
        """Tokens of a chain, on average."""
        return self.mean(key, "n_thinking_tokens")


def section() -> str:
    run, fixed, small = map(Reasoned, REASONING)
    uncontrolled = [key for key in (NORMAL, *run.settings) if key not in run.control_of.values()]
    rows = []
    for key in uncontrolled:
        rows.append(_row(run, key, f"`{key}`"))
        if control := run.control_of.get(key):
            rows.append(_row(run, control, "– its control"))
    rows += [_row(fixed, key, f"`{key}`") for key in fixed.settings]
    heads = [
        "setting", "layers skipped", "right", "gained, lost", "half", "filler", "at once", "tokens of thinking",
        "cost per right answer", "necessity", "beside control",
    ]  # fmt: skip
    normal, longest = run.need(NORMAL), max(uncontrolled, key=run.thought)
    few = small.accuracy(NORMAL)
    return f"""
## What limited depth does to reasoning

Qwen2.5-Coder-0.5B-Instruct ({run.finished.manifest.model["n_layers"]} layers, float32) adds up numbers,
{run.n_prompts} sums, in a chain of thought of which it is shown two examples. The shares of right answers: after the
chain that the setting wrote; after half of the chain that `normal` wrote, and after as many tokens without meaning; and
at once. Cost per right answer: multiply-adds of all texts, if deciding were free, over right answers, beside `normal`.
Necessity: right with the chain less right at once, in points; beside control: less that of a control that exits as
often at each layer, whatever the token.

{table_of(heads, rows)}

At full depth, answers {words.necessity(normal)}: {points_of(normal)} points; by the number of additions,
and then the share of texts that come to `Answer:`, {"; ".join(_by_steps(run))}. Chains are longest,
{run.thought(longest):.1f} tokens, with `{longest}` ({run.thought(NORMAL):.1f} at full depth).
Beside those of its control, the chains of a setting are {"; ".join(_told(run))}.
Where hardly an answer is right, none can need its chain.
Differences from controls that are not certain would be shown with a chance of {percent_of(POWER)}, if they are as
large as they seem, by so many prompts: {_would_show(run)}.

The default model gets {share_of(few)} of the same sums right with a chain
and {share_of(small.need(NORMAL, NONE, "accuracy_without"))} at once: {words.tells(few)}.
"""


def _row(run: Reasoned, key: str, name: str) -> list[str]:
    taken = run.taken[key]
    cost = "" if key == NORMAL else times_of(taken.beside_normal) if run.accuracy(key).mean else "none right"
    beside, without = run.need(key, NONE, "beside_control"), [run.needs.get((key, kept, None)) for kept in KEPT]
    return [
        name, percent_of(run.skipped(key).mean), percent_of(run.accuracy(key).mean),
        "" if key == NORMAL else gained_and_lost(run.beside_normal(key)),
        *(percent_of(row["accuracy_without"]) if row else "" for row in without),
        f"{run.thought(key):.1f}", cost, points_of(run.need(key)), points_of(beside) if beside.n else "",
    ]  # fmt: skip


def _by_steps(run: Reasoned) -> Iterator[str]:
    """How much full depth needs its chains, and how many of them end with an answer, by the number of steps."""
    steps_of = {each["id"]: each["steps"] for each in run.finished.manifest.config["prompts"]}
    steps = run.runs.prompt_id.map(steps_of)
    for n in sorted(set(steps_of.values())):
        closed = run.of_prompts(NORMAL, "thinking_closed", steps == n).mean()
        yield f"{n}: {points_of(run.need(NORMAL, steps=n))}, {percent_of(closed)}"


def _told(run: Reasoned) -> Iterator[str]:
    """What is shown of settings beside their controls."""
    found: dict[str, list[str]] = {}
    for key, control in run.control_of.items():
        called = words.beside_control(run.need(key, NONE, "beside_control"), run.accuracy(control))
        found.setdefault(called, []).append(f"`{key}`")
    for called, keys in found.items():
        yield f"{called} for {', '.join(keys) if len(found) > 1 else 'all of them'}"


def _would_show(run: Reasoned) -> str:
    """How many prompts would show the differences that these don't, if they are as large as they seem."""
    beside = {key: run.need(key, NONE, "beside_control") for key in run.control_of}
    unknown = {key: words.enough(each) for key, each in beside.items() if each.low <= 0 <= each.high}
    return ", ".join(f"{n:,} for `{key}`" for key, n in unknown.items() if n) or "none that isn't certain"
