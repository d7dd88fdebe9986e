"""Types of a sweep's axes, with their validators: modes, rules, drafts, exit layers and sets, gates, controls."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticKnownError

from eexit.method.custom import RegistryEntry
from eexit.method.modes import MODES
from eexit.method.rules import RULES, ExitHistogram
from eexit.output.text import did_you_mean
from eexit.plan.configuration import DRAFT, EVERY, exiting_modes, mode_of, parse_drafts, parse_exit_set
from eexit.plan.field_types import MOST_COUNT, Count, Float, Text

STORED: Final = "stored"  # validation context of a sweep's stored configuration, whose functions may be missing
KL_FACTORS: Final = "kl_factors"  # an argument and a flag, but no field: short for `rules={"kl": …}`
MAPPING: Final = tuple(name for name, state in MODES.items() if state.needs_kv_maps)  # modes that need KV maps


def _increasing(layers: tuple[int, ...]) -> tuple[int, ...]:
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"exit layers must be strictly increasing, got {','.join(map(str, layers))}")
    return layers


def distinct(values: tuple[Any, ...], of: str = "") -> tuple[Any, ...]:
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{', '.join(repeated)}{of} is listed more than once")
    return values


def _distinguishable(parameters: tuple[float, ...], name: str) -> tuple[float, ...]:
    """Refuse parameters of `name` that are equal when rounded to six digits, as tables and the report show them."""
    shown: dict[str, float] = {}
    for parameter in parameters:
        first = shown.setdefault(f"{parameter:g}", parameter)
        if first != parameter:
            raise ValueError(f"{name} {first} and {parameter} are shown with six digits, as {parameter:g} both")
    return parameters


def _refuse_unless_given(entry: RegistryEntry, info: ValidationInfo) -> None:
    """Raise `UsageError` for a custom rule or mode whose function is missing, unless the sweep is a stored one."""
    if info.context != STORED:
        entry.refuse_if_not_given()


def _mode(name: str, info: ValidationInfo) -> str:
    if name == DRAFT:
        raise ValueError(
            f"mode {DRAFT} needs the layer and the number of drafted tokens: give --draft LAYER:N, as in 20:4, "
            f"and leave {DRAFT} out of --modes"
        )
    if name not in (modes := exiting_modes()):
        *others, last = map(repr, modes)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    if name in MODES:
        _refuse_unless_given(MODES[name], info)
    return name


def rules_table(given: Any) -> Any:
    """Return rules and their parameters as a table, also from texts such as "kl=0.5,1" and "agree".

    A text that is only a number is a further parameter of the previous rule: "kl=0.5", "1".
    """
    if not isinstance(given, list | tuple):
        return given
    table: dict[str, list[str]] = {}
    name = ""
    for text in given:
        begins, is_given, rest = str(text).rpartition("=")
        if is_given or not _is_number(rest):
            name = (begins if is_given else rest).strip()
            if name in table:
                raise ValueError(f"rule {name} is listed more than once: give all its parameters in one entry")
            table[name] = []
        if not name:
            raise ValueError(f"rules start with a name, as in kl=0.5,1 or agree, got {text}")
        if is_given or _is_number(rest):
            table[name] += [part.strip() for part in rest.split(",") if part.strip()]
    return table


def with_kl_factors(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a sweep's fields with `KL_FACTORS` among the rules. A sweep that names only drafts has no rules."""
    if KL_FACTORS not in fields:
        return {"rules": {}, **fields} if fields.get("draft") else fields
    factors, rules = fields[KL_FACTORS], rules_table(fields.get("rules") or {})
    if factors and isinstance(rules, Mapping):
        if "kl" in rules:
            raise ValueError("rule kl has KL factors in rules and in kl_factors: give all of them in one place")
        rules = {"kl": factors, **rules}
    return {**{name: value for name, value in fields.items() if name != KL_FACTORS}, "rules": rules}


def _is_number(text: str) -> bool:
    try:
        float(text.partition(",")[0])
    except ValueError:
        return False
    return True


def _sensible(rules: Mapping[str, tuple[float, ...]], info: ValidationInfo) -> Mapping[str, tuple[float, ...]]:
    """Return the rules, kl first, so that the order of configurations is the same however a sweep has grown."""
    for name, parameters in rules.items():
        if name not in RULES:
            meant = did_you_mean(name, RULES, f"choose from {', '.join(RULES)}", most=1)
            raise ValueError(f"unknown rule {name!r}: {meant}")
        _refuse_unless_given(RULES[name], info)
        for parameter in parameters or (None,):
            RULES[name].check(parameter)
        _distinguishable(distinct(parameters, f" of rule {name}"), f"the parameters of rule {name}")
    return {"kl": rules["kl"], **rules} if "kl" in rules else rules


def _exit_sets(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
        return tuple(",".join(map(str, parse_exit_set(text))) or EVERY for text in texts)
    return given


def _drafts(given: Any) -> Any:
    """Return one text per draft, from texts that may each stand for a grid: "10,20:2,4"."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return given
    drafts = [draft for text in texts for draft in parse_drafts(text)]
    for draft in drafts:
        if draft.layer < 0 or max(draft.layer, draft.n_tokens) > MOST_COUNT:
            raise ValueError(f"LAYER and N of a draft must be from 0 to {MOST_COUNT}, got {draft}")
    return tuple(map(str, drafts))


Rules = Annotated[dict[Text, tuple[Float, ...]], BeforeValidator(rules_table), AfterValidator(_sensible)]
Drafts = Annotated[tuple[Text, ...], BeforeValidator(_drafts), AfterValidator(distinct)]
ExitSets = Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_exit_sets), AfterValidator(distinct)]
GateThresholds = Annotated[
    tuple[Annotated[Float, Field(ge=0, le=1)], ...], Field(min_length=1), AfterValidator(distinct),
    AfterValidator(partial(_distinguishable, name="gate_thresholds")),
]  # fmt: skip
Modes = Annotated[tuple[Annotated[Text, AfterValidator(_mode)], ...], Field(min_length=1), AfterValidator(distinct)]
ExitLayers = Annotated[tuple[Annotated[Count, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_increasing)]


def _exiting(key: str, info: ValidationInfo) -> str:
    if mode_of(key) not in MODES:
        raise ValueError(f"{key} is no configuration that exits: its mode must be one of {', '.join(MODES)}")
    _refuse_unless_given(MODES[mode_of(key)], info)
    return key


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ControlSpec:
    """Control to run: rule `random` with the exit layers of the configuration whose key is `of`.

    `counts` are that configuration's decided tokens by exit layer. The mode is `in_mode`, by default that of `of`.
    """

    of: Annotated[Text, AfterValidator(_exiting)]
    counts: dict[int, int]
    in_mode: Annotated[Text, AfterValidator(_exiting)] | None = None

    @property
    def mode(self) -> str:
        return self.in_mode or mode_of(self.of)

    @property
    def parameter(self) -> ExitHistogram:
        return ExitHistogram(self.of, tuple(sorted(self.counts.items())))
