"""Formatting of numbers, counts and lists, the same in every table and sentence."""

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

SHORT: Final = 3  # names of this length or less are similar by chance, such as gpu and cpu


def printable(text: str) -> str:
    """Return the text with control characters escaped as in Python, except line breaks and tabs.

    >>> printable("a\\x1b[2Jmodel")
    'a\\\\x1b[2Jmodel'
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def is_known(number: Any) -> bool:
    return number is not None and math.isfinite(number)


def format_number(number: float | None, form: str) -> str:
    """Return `format(number, form)` without the sign of a number that rounds to zero; "–" if it is unknown.

    >>> format_number(-0.0004, ".1%"), format_number(-0.0005, ".4f"), format_number(None, ".1%")
    ('0.0%', '-0.0005', '–')
    """
    return "–" if number is None or math.isnan(number) else format(float(number), re.sub("^[+]?", r"\g<0>z", form))


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return format_number(share, f".{digits}%")


def short_percent(share: float | None) -> str:
    """Return a share in percent with three significant digits; "–" if it is unknown.

    >>> short_percent(0.05), short_percent(0.12345)
    ('5%', '12.3%')
    """
    return f"{format_number(100 * share, '.3g')}%" if share is not None and math.isfinite(share) else "–"


def format_bytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def interval(low: float | None, high: float | None, form: str) -> str:
    """Return the ends of an interval with a dash between them, for terminal tables; a lone dash if it is unknown."""
    return f"{format_number(low, form)}–{format_number(high, form)}" if is_known(low) and is_known(high) else "–"


def bracketed(low: float | None, high: float | None, form: str) -> str:
    """Return an interval in brackets, as it follows its estimate in text; empty if it is unknown."""
    return f" [{format_number(low, form)}, {format_number(high, form)}]" if is_known(low) and is_known(high) else ""


def truncate_lines(lines: Sequence[str], most: int = 20) -> list[str]:
    """Return the first `most` lines, then the number of further lines."""
    more = len(lines) - most
    return [*lines[:most], *([f"and {more:,} more"] if more > 0 else [])]


def nearest(name: str, known: Collection[str], most: int = 2) -> list[str]:
    """Return the `known` names that begin with `name` or else, if it has more than `SHORT` letters, similar ones.

    >>> nearest("frozen", ["frozen_residual", "frozen_cache", "skip"]), nearest("Confidense", ["confidence"])
    (['frozen_residual', 'frozen_cache'], ['confidence'])
    """
    by_lower = {each.lower(): each for each in known}
    begun = [each for each in by_lower if name and each.startswith(name.lower())]
    alike = difflib.get_close_matches(name.lower(), by_lower, n=most) if len(name) > SHORT else []
    return [by_lower[each] for each in (begun or alike)[:most]]


RENAMED: Final[Mapping[str, str]] = {  # flags and arguments before version 0.3
    "state": "kv_maps", "decide_on": "screen", "observe": "record_full_depth", "controls_in": "control_modes",
    "at_most": "max_risk", "beside": "baselines", "asks": "planned_uses", "fresh": "unused_prompts",
    "settings_of": "settings_from_replay", "prices_of": "unit_costs_of",
}  # fmt: skip


def renamed(name: str) -> str:
    """Return a sentence such as "--beside is --baselines now" for a renamed flag or argument, else an empty one."""
    now = RENAMED.get(name.removeprefix("--").replace("-", "_"))
    return f"{name} is {flag(now) if name.startswith('--') else now} now" if now else ""


def did_you_mean(name: str, known: Collection[str], otherwise: str = "", most: int = 2) -> str:
    """Return a question with the names that were probably meant, or `otherwise` if there are none."""
    near = nearest(name, known, most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def ordinal(n: int) -> str:
    """Return an ordinal such as `first`, in digits beyond the tenth: `11th`."""
    names = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    if n <= len(names):
        return names[n - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th") if n % 100 not in (11, 12, 13) else "th"
    return f"{n:,}{ending}"


def pluralize(n: int, noun: str) -> str:
    """Return a number with its noun, such as `1 seed` or `2 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def counted_between(counts: Collection[int], noun: str) -> str:
    """Return the range of several counts with their noun, such as `5 to 6 prompts`, or one number if all are equal."""
    low, high = min(counts), max(counts)
    return pluralize(high, noun) if low == high else f"{low:,} to {pluralize(high, noun)}"


def with_versions(versions: Mapping[str, str | None]) -> str:
    """Return the installed packages among these, with their versions."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def with_weights(quantization: str | None) -> str:
    """Return the suffix that names the quantisation of weights, such as " with int8 weights"; else empty."""
    return "" if quantization is None else f" with {quantization} weights"


def describe_precision(model: Mapping[str, Any], dtype_asked: str) -> str:
    """Return a sweep model's dtype and quantisation, from a dumped `eexit.plan.model_description.ModelDescription`.

    >>> describe_precision({"dtype": "bfloat16", "gguf_bits": 4}, "auto")
    'bfloat16 (--dtype auto), weights dequantised from 4 bits'
    """
    auto = " (--dtype auto)" if dtype_asked == "auto" else ""
    bits = f", weights dequantised from {model['gguf_bits']} bits" if model.get("gguf_bits") else ""
    return f"{model['dtype']}{with_weights(model.get('quantization'))}{auto}{bits}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def unapplied_sentence(values: Mapping[str, Any], what: str) -> str:
    """Return the line that names values of a model's generation_config that `what` does not apply.

    >>> unapplied_sentence({"do_sample": True, "suppress_tokens": [*range(99)]}, "a sweep")
    "the model's generation_config sets do_sample=true, suppress_tokens=[0, 1, 2, 3, 4…, which a sweep does not apply"
    """
    shown = {name: json.dumps(value) for name, value in values.items()}
    listed = ", ".join(f"{name}={text if len(text) <= 30 else text[:14] + '…'}" for name, text in shown.items())
    return f"the model's generation_config sets {listed}, which {what} does not apply"
