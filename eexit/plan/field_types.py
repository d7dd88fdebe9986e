"""Types of single values in a sweep's schema, with their validators: texts, numbers, table cells, patterns."""

import math
from typing import Annotated, Any, Final, Literal

import regex
from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, ValidationInfo
from pydantic_core import PydanticKnownError

NO_MARKS: Final = "none"  # no thinking: texts are all answer
MOST_COUNT: Final = 2**31 - 1  # limit of all counts; positions and layers are stored as int32
LEAST_SEED, MOST_SEED = -(2**63), 2**63 - 1  # seeds are stored as int64


def _encodable(text: str) -> str:
    """Refuse lone surrogates, to which Python decodes command-line bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticKnownError("string_unicode") from error
    return text


def _dtype_name(value: Any) -> Any:
    """Return the name of a torch dtype, without importing torch, and other values unchanged."""
    return str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value


def _number(value: Any) -> Any:
    """Refuse true and false, which pydantic would convert to 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _true_or_false(value: Any) -> Any:
    """Refuse the other spellings of true and false that pydantic accepts, such as "yes"."""
    if not isinstance(value, bool) and value not in ("true", "false"):
        raise PydanticKnownError("bool_type")
    return value


def _as_text(value: Any) -> Any:
    """Return a number as text, and blank text, such as an empty cell of a table, as None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return None if isinstance(value, str) and not value.strip() else value


def _as_count(value: Any, of: ValidationInfo) -> Any:
    """Return a table's cell as a whole number above 0, and a blank one as None."""
    text = _as_text(value)
    digits = text.strip().removesuffix(".0") if isinstance(text, str) else ""
    if text is not None and not (digits.isascii() and digits.isdecimal() and 0 < int(digits) <= MOST_COUNT):
        raise ValueError(f"{of.field_name} must be a whole number above 0, got {value!r}")
    return int(digits) if digits else None


def _compiles(pattern: str, name: str = "answer_pattern") -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{name} {pattern!r} is no regular expression ({error}): mend it") from error
    return pattern


def _begins_answers(pattern: str) -> str:
    if not pattern:
        raise ValueError(f"thinking_until is empty: give a pattern, or --thinking {NO_MARKS} where texts don't think")
    return _compiles(pattern, "thinking_until")


def _opens_and_closes(marks: tuple[str, ...]) -> tuple[str, ...]:
    if marks != (NO_MARKS,) and not (len(set(marks)) == len(marks) == 2 and all(marks)):
        shown = " ".join(marks) or "nothing"
        raise ValueError(
            f"thinking takes what opens a chain of thought and what closes it, as in <think> </think>, or {NO_MARKS}, "
            f"got {shown}"
        )
    return marks


Text = Annotated[StrictStr, AfterValidator(_encodable)]
Cell = Annotated[Text | None, BeforeValidator(_as_text)]
Whole = Annotated[int | None, BeforeValidator(_as_count)]
Pattern = Annotated[Annotated[Text, AfterValidator(_compiles)] | None, BeforeValidator(_as_text)]
Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Count = Annotated[Int, Field(le=MOST_COUNT)]
Bool = Annotated[bool, BeforeValidator(_true_or_false)]
Seed = Annotated[Int, Field(ge=LEAST_SEED, le=MOST_SEED)]
DType = Annotated[Literal["auto", "bfloat16", "float16", "float32"], BeforeValidator(_dtype_name)]
Thinking = Annotated[tuple[Text, ...], AfterValidator(_opens_and_closes)]
AnswerStart = Annotated[Text, AfterValidator(_begins_answers)]
