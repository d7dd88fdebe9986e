"""Descriptions of custom rules and modes in a manifest of results: their texts, which never run, and their fields.

Reading a manifest registers them by their descriptions. To run them again, a user gives the file or function again.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NoReturn

from eexit.errors import UsageError
from eexit.method.captured_values import NotDescribedError, captured_values
from eexit.method.custom import SHOWN, CustomSource, digest_of, needs_of, text_of
from eexit.method.modes import KINDS as MODE_KINDS
from eexit.method.modes import MODES, Mode
from eexit.method.rules import RULES, Rule

RULE, MODE = "rule", "mode"
SHA256_DIGITS: Final = 64
_REGISTRIES: Final[Mapping[str, Mapping[str, Rule | Mode]]] = {RULE: RULES, MODE: MODES}
_UNSTORED: Final = ("function", "source", "given", "captured")
Described = Mapping[str, Any]


def custom_entries(names: Container[str]) -> list[Rule | Mode]:
    """Return the custom rules and modes that have one of these names."""
    return [each for known in _REGISTRIES.values() for name, each in known.items() if name in names and each.source]


def descriptions_of(names: Container[str]) -> list[dict[str, Any]]:
    """Return the descriptions of the custom rules and modes with these names, as JSON.

    Each has the entry's `kind`, its `source` with the `text` and the `digest` of the text, the values that the function
    captures (`captured`), and all declared fields. Raises `UsageError` for a captured value without a digest.
    """
    described = []
    for each in custom_entries(names):
        assert each.source
        source = {"source": each.source.name, "digest": each.source.digest, "text": each.source.text}
        declared = {field.name: getattr(each, field.name) for field in fields(each) if field.name not in _UNSTORED}
        known = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in declared.items()
            if value not in (math.inf, -math.inf)
        }
        kind = RULE if isinstance(each, Rule) else MODE
        described.append({"kind": kind, **source, "captured": captured_by(each), **known})
    return described


def captured_by(each: Rule | Mode) -> Mapping[str, str]:
    """Return descriptions of what a custom rule or mode captures. Raise `UsageError` for a value without a digest."""
    if each.captured is not None:
        return each.captured
    try:
        return captured_values(each.function)
    except NotDescribedError as error:
        raise UsageError(
            f"{each.name} uses {error}: results record what a custom rule or mode uses, so give it numbers, text, "
            "arrays, tensors or functions"
        ) from error


def register_from_manifest(descriptions: Sequence[Described]) -> None:
    """Register custom rules and modes by their descriptions, where they are not given in this process."""
    for each in descriptions:
        known = _REGISTRIES[each["kind"]].get(each["name"])
        if known and (known.given or not known.source):
            continue
        kind = Rule if each["kind"] == RULE else MODE_KINDS[each["fill"]]
        declared = {field.name: each[field.name] for field in fields(kind) if field.name in each}
        if "needs" in declared:
            declared["needs"] = needs_of(declared["needs"])
        of_results = {"source": source_of(each), "captured": each.get("captured", {})}
        kind(**{**declared, **of_results, "function": _not_given, "given": False}).register()


def source_of(described: Described) -> CustomSource:
    """Return the origin of a custom rule or mode that results describe."""
    return CustomSource(described["source"], described["text"])


def present_source(described: Described) -> CustomSource | None:
    """Return where this process has another text of a custom rule or mode than results describe; None otherwise."""
    known = _REGISTRIES[described["kind"]].get(described["name"])
    if known is None or not known.given or not known.source:
        return None
    is_same = source_of(described).digest in (known.source.digest, digest_of(text_of(known.function)))
    return None if is_same else known.source


def refuse_changed(descriptions: Sequence[Described], of: str) -> None:
    """Raise `UsageError` unless custom rules and modes are given in this process as the results `of` describe them.

    A function from a notebook may be given in a file. Captured values, such as its threshold, are compared too.
    """
    for each in descriptions:
        what, source = f"{each['kind']} {each['name']}", source_of(each)
        known = _REGISTRIES[each["kind"]].get(each["name"])
        if known is None or not known.given:
            raise UsageError(f"{of} has {what} of a user's own, whose text is stored and not run: {source.way_out}")
        if not known.source or present_source(each):
            raise UsageError(
                f"{of} has another {what} than {known.source.name if known.source else 'the package'} now has: "
                f"{source.way_out} as it was, or call this one by another name and run it in another --out"
            )
        before, now = each.get("captured", {}), captured_by(known)
        for name in sorted({*before, *now}, reverse=True):  # what a helper captures comes before the helper
            if (was := before.get(name, "not there")) != (found := now.get(name, "not there")):
                raise UsageError(
                    f"{of} has {what} where {name} was {_short(was)}, and it is {_short(found)} now: set it as it was, "
                    "or call this one by another name and run it in another --out"
                )


def _short(description: str) -> str:
    kind, _, digest = description.partition(" ")
    return f"{kind} {digest[:SHOWN]}…" if len(digest) == SHA256_DIGITS else description


def _not_given(*_: Any) -> NoReturn:
    raise UsageError("a rule or mode is known from results alone: give its file with --use")
