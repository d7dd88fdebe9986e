"""What results say of custom rules and modes: their texts, to be read and never run, and what readers need to know.

Reading a manifest makes them known by that. Whoever runs them again gives the file, or the function, again.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NoReturn

from eexit.errors import UsageError
from eexit.method.captured_values import NotDescribedError, captured_values
from eexit.method.custom import SHOWN, CustomSource, digest_of, text_of
from eexit.method.modes import KINDS as MODE_KINDS
from eexit.method.modes import MODES, KVFill, Mode
from eexit.method.rules import RULES, Rule, register

RULE, MODE = "rule", "mode"
N_DIGITS: Final = 64  # of a SHA-256
_KINDS: Final[Mapping[str, Mapping[str, Rule | Mode]]] = {RULE: RULES, MODE: MODES}
_ASIDE: Final = ("function", "source", "given", "captured")
Described = Mapping[str, Any]


def custom_entries(names: Container[str]) -> list[Rule | Mode]:
    """The custom rules and modes among those with these names."""
    return [each for known in _KINDS.values() for name, each in known.items() if name in names and each.source]


def descriptions_of(names: Container[str]) -> list[dict[str, Any]]:
    """What a manifest has of the custom rules and modes among these, as JSON.

    That is its `kind`, where it comes from (`source`) with its `text` and the SHA-256 of that, the values that its
    function has from elsewhere (`captured`), and all that is declared of it. Raises `UsageError` for a value that can't
    be described.
    """
    found = []
    for each in custom_entries(names):
        assert each.source
        of_source = {"source": each.source.name, "digest": each.source.digest, "text": each.source.text}
        declared = {field.name: getattr(each, field.name) for field in fields(each) if field.name not in _ASIDE}
        known = {name: _plain(value) for name, value in declared.items() if value not in (math.inf, -math.inf)}
        captured = {"captured": captured_by(each)}
        found.append({"kind": RULE if isinstance(each, Rule) else MODE, **of_source, **captured, **known})
    return found


def captured_by(each: Rule | Mode) -> Mapping[str, str]:
    """Return the values that the function of a custom rule or mode has from elsewhere, described by name.

    Raises `UsageError` for a value that can't be described.
    """
    if each.captured is not None:
        return each.captured
    try:
        return captured_values(each.function)
    except NotDescribedError as error:
        raise UsageError(
            f"{each.name} uses {error}: results record what a custom rule or mode uses, so give it numbers, text, "
            "arrays, tensors or functions"
        ) from error


def register_from_manifest(own: Sequence[Described]) -> None:
    """Make custom rules and modes known by what results say of them, where they are not given in this process."""
    for each in own:
        name = each["name"]
        kind = Rule if each["kind"] == RULE else MODE_KINDS[KVFill(each["fill"])]
        there = _KINDS[each["kind"]].get(name)
        if there and (there.given or not there.source):
            continue
        source = CustomSource(each["source"], each["text"])
        said = {field.name: each[field.name] for field in fields(kind) if field.name in each}
        if each["kind"] == MODE:
            said["fill"] = KVFill(each["fill"])
        register_entry(kind(**{**said, "source": source, "function": _not_given, "given": False}))


def register_entry(entry: Rule | Mode) -> None:
    """Make a rule or mode known by its name, in place of one of that name that was before."""
    if isinstance(entry, Rule):
        register(entry)
    else:
        MODES[entry.name] = entry


def refuse_changed(own: Sequence[Described], of: str) -> None:
    """Raises `UsageError` unless these rules and modes, as `of` had them, are given in this process.

    A function that `of` had from a notebook may be given in a file. The values that a function has from elsewhere, such
    as a threshold of the notebook, are compared too.
    """
    for each in own:
        what, source = f"{each['kind']} {each['name']}", CustomSource(each["source"], each["text"])
        there = _KINDS[each["kind"]].get(each["name"])
        if there is None or not there.given:
            raise UsageError(f"{of} has {what} of a user's own, whose text is stored and not run: {source.way_out}")
        if there.source and source.digest in (there.source.digest, digest_of(text_of(there.function))):
            _refuse_other_values(what, each.get("captured", {}), captured_by(there), of)
            continue
        raise UsageError(
            f"{of} has another {what} than {there.source.name if there.source else 'the package'} now has: "
            f"{source.way_out} as it was, or call this one by another name and run it in another --out"
        )


def _refuse_other_values(what: str, before: Mapping[str, str], now: Mapping[str, str], of: str) -> None:
    for name in sorted({*before, *now}, reverse=True):  # what a helper captures comes before the helper
        if (was := before.get(name, "not there")) != (found := now.get(name, "not there")):
            raise UsageError(
                f"{of} has {what} where {name} was {_short(was)}, and it is {_short(found)} now: set it as it was, or "
                "call this one by another name and run it in another --out"
            )


def _short(description: str) -> str:
    kind, _, digest = description.partition(" ")
    return f"{kind} {digest[:SHOWN]}…" if len(digest) == N_DIGITS else description


def _not_given(*asked: Any) -> NoReturn:
    raise UsageError("a rule or mode is known from results alone: give its file with --use")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, KVFill) else list(value) if isinstance(value, tuple) else value
