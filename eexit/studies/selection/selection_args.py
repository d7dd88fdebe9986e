"""Arguments of a selection: risk, bound, candidate settings, test and order.

All are recorded before a loss of a calibration prompt is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eexit.errors import UsageError
from eexit.method.rules import ORACLES, RULES
from eexit.output.text import ordinal, short_percent, truncate_lines
from eexit.plan.configuration import NORMAL, PROMPTS_SAVE_NOTHING, EarlyExit, configuration_of
from eexit.plan.splits import in_pilot_split, in_test_split
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.learn_then_test import ORDERS, PARETO
from eexit.quality.risk_tests import prompts_without_loss
from eexit.quality.risks import RISKS, SCORE
from eexit.results.layout import Manifest

_TEXTS: Final = ["correct", "finish_reason", "lcs_share"]  # what is told of the texts beside the risk
_IDENTITY: Final = ["run_id", "prompt_id", "prompt", "configuration", "seed", "status"]


@dataclass(frozen=True)
class CostMeasure:
    """Cost by which settings are compared: a column's sum over sampling units, as a fraction of another column's."""

    definition: str
    column: str
    of: str | None = None  # None: the mean of the column
    is_run: bool = False  # whether oracles have none
    of_normal: bool = False  # whether it is told as a share of that of normal

    @property
    def columns(self) -> list[str]:
        return [self.column, *([self.of] if self.of else [])]


COSTS: Final[dict[str, CostMeasure]] = {
    "run": CostMeasure(
        "multiply-adds of what was run, as a share of those of full depth", "macs_executed", "macs_full", is_run=True
    ),
    "needed": CostMeasure(
        "multiply-adds that the exits would need if deciding were free, as a share of those of full depth: theoretical",
        "macs_required", "macs_full",
    ),
    "depth": CostMeasure("mean depth of the exits, as a fraction of all layers", "mean_depth"),
    "right": CostMeasure(
        "multiply-adds of what was run per right answer, as a share of those of normal", "macs_executed", "correct",
        is_run=True, of_normal=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class SettingFamily:
    """Keys of the settings of a mode, rule, exit set and gate, the most conservative first."""

    mode: str
    rule: str
    settings: tuple[str, ...]
    within: str = ""  # exit set and gate, as in keys

    @property
    def name(self) -> str:
        return f"{self.mode}/{self.rule}{self.within}"

    @property
    def is_oracle(self) -> bool:
        return self.rule in ORACLES


def has_order(columns: Mapping[str, Any]) -> bool:
    """Return True if settings of this configuration's rule have an order from conservative to bold.

    `columns` are those of `eexit.results.tables.CONFIGURATION`.
    """
    rule = RULES.get(columns["rule"] or "")
    return rule is not None and rule.higher_exits_later is not None and columns["parameter"] is not None


def families(configurations: Iterable[Mapping[str, Any]]) -> list[SettingFamily]:
    """Return the families of these configurations that have an order, in order of appearance.

    Each rule declares the conservative end of its parameter (`Rule.higher_exits_later`). A sequence needs an order:
    rules without a parameter, controls and drafts have none.
    """
    parameters: dict[tuple[str, str, str], dict[str, float]] = {}
    for columns in filter(has_order, configurations):
        configuration = configuration_of(columns)
        assert isinstance(configuration, EarlyExit)
        by_key = parameters.setdefault((configuration.mode, configuration.rule, configuration.within), {})
        by_key[configuration.key] = columns["parameter"]
    found = []
    for (mode, rule, within), by_key in parameters.items():
        bold_last = sorted(by_key, key=by_key.__getitem__, reverse=bool(RULES[rule].higher_exits_later))
        found.append(SettingFamily(mode, rule, tuple(bold_last), within))
    return found


@dataclass(frozen=True)
class AlphaShare:
    """Share of the error budget: which use of the calibration prompts it is, from 1, and how many are planned."""

    number: int
    planned: int
    error: float


@dataclass(frozen=True)
class SelectionArgs:
    """Flags of `eexit choose`; without modes, rules and keys, all settings are candidates."""

    risk: str
    max_risk: float = 0.05
    confidence: float = 0.95
    cost: str = "run"
    modes: Sequence[str] = ()
    rules: Sequence[str] = ()
    keys: Sequence[str] = ()
    order: str = PARETO  # of `ORDERS`
    pilot: str | None = None  # a finished sweep that the order comes from; None: a part of the prompts for choosing
    planned_uses: int | None = None  # of the same prompts, how many are planned; None: as was said at the first, or one

    def __post_init__(self) -> None:
        """Raise `UsageError` for impossible values."""
        for name, share in (("--max-risk", self.max_risk), ("--confidence", self.confidence)):
            if not 0 < share < 1:
                raise UsageError(f"{name} must be above 0 and below 1, as in 0.05 or 0.95, got {share:g}")
        if self.order not in ORDERS:
            raise UsageError(f"--order must be one of {', '.join(ORDERS)}, got {self.order}")
        if self.pilot and self.order != PARETO:
            raise UsageError(f"--pilot gives the order of --order {PARETO}, and --order {self.order} needs none")

    @property
    def columns(self) -> Sequence[str]:
        """Columns of runs that a selection needs."""
        column = RISKS[self.risk].column
        names = [*_IDENTITY, *([] if column == SCORE else [column]), *COSTS[self.cost].columns, *_TEXTS, *OF_RIGHT]
        return list(dict.fromkeys(names))

    def part_of(self, unit: str) -> str:
        """Return the split of a sampling unit: `reporting`, `pilot` or `choosing`."""
        if in_test_split(unit):
            return "reporting"
        return "pilot" if self.order == PARETO and not self.pilot and in_pilot_split(unit) else "choosing"

    def names(self, columns: Mapping[str, Any]) -> bool:
        """Return True if the configuration with these columns is a candidate."""
        return (
            columns["configuration"] != NORMAL
            and (not self.modes or columns["mode"] in self.modes)
            and (not self.rules or columns["rule"] in self.rules)
            and (not self.keys or columns["configuration"] in self.keys)
        )


def candidates(manifest: Manifest, question: SelectionArgs, name: str) -> tuple[list[SettingFamily], list[str]]:
    """Return the families of settings to test, and a line for each group of configurations that is left out.

    Raises `UsageError` for names that the sweep lacks, for named settings that can't be tested, and without any
    setting.
    """
    from eexit.results.finished_sweep import refuse_unknown  # here, since flags are made of the names above

    there = [each for each in manifest.configurations if each["mode"] != NORMAL]
    rules = [each["rule"] for each in there if each["rule"]]
    refuse_unknown(question.modes, list(dict.fromkeys(each["mode"] for each in there)), name, "mode with exits called")
    refuse_unknown(question.rules, list(dict.fromkeys(rules)), name, "rule")
    refuse_unknown(question.keys, [each["configuration"] for each in there], name)
    named = [each for each in there if question.names(each) and not each.get("prompt_exits")]
    in_prompt = [each["configuration"] for each in there if question.names(each) and each.get("prompt_exits")]
    unordered = [each["configuration"] for each in named if not has_order(each)]
    found = families(named)
    costless = [family for family in found if COSTS[question.cost].is_run and family.is_oracle]
    reasons = {
        "no order from conservative to bold, which a sequence of tests needs": truncate_lines(unordered, 5),
        "oracles save nothing at run time; --cost needed or --cost depth compares them": [
            each.name for each in costless
        ],
        PROMPTS_SAVE_NOTHING: truncate_lines(in_prompt, 5),
    }
    left_out = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items() if names]
    tested = [family for family in found if family not in costless]
    is_named = {*in_prompt} & {*question.keys} or _asked_for_by_name(question, unordered, costless)
    if left_out and (not tested or is_named):
        raise UsageError(f"{name} can't be chosen from: {'; '.join(left_out)}")
    if not tested:
        raise UsageError(
            f"{name} has no setting to choose from: run a sweep with rules, such as --rules confidence=0.9"
        )
    return tested, left_out


def _asked_for_by_name(question: SelectionArgs, unordered: Sequence[str], costless: Sequence[SettingFamily]) -> bool:
    """Return True if a setting that can't be tested was named itself, and not only by its mode."""
    rules = {key.split("/")[1] for key in unordered if "/" in key} | {family.rule for family in costless}
    keys = {*unordered, *(key for family in costless for key in family.settings)}
    return bool(rules & set(question.rules) or keys & set(question.keys))


def refuse_few(n: int, n_sequences: int, question: SelectionArgs, name: str, ask: AlphaShare) -> None:
    """Raise `UsageError` if `n` prompts without any loss can't certify a setting.

    The sequences, `n_sequences`, share the error budget in `ask` equally. `name` is the sweep's in the message.
    """
    least = prompts_without_loss(question.max_risk, ask.error / n_sequences)
    if n < least:
        which = f", as the {ordinal(ask.number)} use of these prompts (error {short_percent(ask.error)}),"
        further = which if ask.number > 1 else ""
        others = ", other prompts" if ask.number > 1 else ""
        sharing = f" among {n_sequences} families of settings, which share the error," if n_sequences > 1 else ""
        fewer = " or fewer --rules or --modes" if n_sequences > 1 else ""
        raise UsageError(
            f"{name} has {n} calibration prompts, and certifying a risk of {question.max_risk:g} with confidence "
            f"{question.confidence:g}{further}{sharing} takes at least {least}, even without a single loss: give more "
            f"prompts ({_parts(question)}){others}, a higher --max-risk, a lower --confidence{fewer}"
        )


def _parts(question: SelectionArgs) -> str:
    if question.order == PARETO and not question.pilot:
        return "nine in sixteen are for calibration, three for the pilot and four for the test"
    return "three in four are for calibration"
