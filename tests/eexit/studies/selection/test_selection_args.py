"""Families of settings: each rule's order from the conservative end to the bold one."""

import pytest
from axes import ALWAYS, NEVER, SOME, control
from scripted import sweep_of

from eexit.errors import UsageError
from eexit.method.rules import RULES
from eexit.plan.configuration import Configuration, EarlyExit, NoExit, parse_drafts
from eexit.results.store.manifest import make_manifest
from eexit.studies.selection.selection_args import SelectionArgs, SettingFamily, candidates, families


@pytest.mark.parametrize("rule", [rule for rule in RULES if NEVER[rule] and ALWAYS[rule] and rule != "random"])
def test_what_never_exits_is_the_conservative_end_and_what_always_exits_the_bold_one(rule: str) -> None:
    given = [EarlyExit("skip", rule, value) for value in (*SOME[rule], *ALWAYS[rule], *NEVER[rule])]
    (family,) = families(each.columns for each in given)
    assert family.settings[0] == EarlyExit("skip", rule, NEVER[rule][0]).key
    assert family.settings[-1] == EarlyExit("skip", rule, ALWAYS[rule][0]).key
    assert sorted(family.settings) == sorted(each.key for each in given)


def test_each_mode_and_rule_is_a_family_and_what_has_no_order_is_in_none() -> None:
    given: list[Configuration] = [
        NoExit(),
        *(EarlyExit(mode, "kl", k) for k in (0.5, 2.0) for mode in ("skip", "unfrozen")),
        EarlyExit("skip", "agree"),
        EarlyExit("skip", "random", control(1, 1, 1, 1)),
        parse_drafts("20:4")[0],
    ]
    unknown = {**given[1].columns, "configuration": "skip/later/1", "rule": "later"}
    assert families([*(each.columns for each in given), unknown]) == [
        SettingFamily(mode, "kl", (f"{mode}/kl/2", f"{mode}/kl/0.5")) for mode in ("skip", "unfrozen")
    ]


def test_configurations_with_prompt_exits_are_left_out_and_refused_by_name() -> None:
    keys = ["unfrozen/confidence/0.9", "unfrozen/confidence/0.9+prompt"]
    config = sweep_of("tiny", "one", rules={"confidence": (0.9,)}, modes=["unfrozen"], prompt_exits=True, only=keys)
    manifest = make_manifest(config, {"n_layers": 30}, (5,))
    reason = f"{keys[1]}: a prompt's tokens run together, so that their exits save nothing"
    plain = [SettingFamily("unfrozen", "confidence", (keys[0],))]
    assert candidates(manifest, SelectionArgs("answers"), "mine") == (plain, [reason])
    with pytest.raises(UsageError, match="mine can't be chosen from: " + reason.replace("+", r"\+")):
        candidates(manifest, SelectionArgs("answers", keys=keys), "mine")
