"""The layout of a results folder, for writers and readers: format, file names, and marks of files that eexit wrote.

    sweep.json          the manifest: configuration, model and versions of the sweep, with a checksum
    generations/*       a row per run, and the checksums of both files of this name (`eexit.results.checksums`)
    tokens/*            a row per token
    timings/*           a row per timed configuration, batch size and round, if `eexit timings` was run
    replays/*           a row per setting that was never run, if `eexit replay` was run
    judgements/*        a row per judged run, if `eexit judge` was run; of several rows of a run, one counts
    choices/*           a row per call of `eexit choose`
    report.html         the report, recognised by a mark; the side files of a large one are in report.data/

`eexit.results.tables` and `eexit.results.study_tables` define the tables; `eexit.results.parquet_files` reads them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic doesn't take Python 3.11's

from eexit.method.custom_manifest import register_from_manifest
from eexit.plan.hashes import checksum

FORMAT: Final = 9

MANIFEST: Final = "sweep.json"
ASSESSMENT: Final = "assessment.json"  # beside the folders of an assessment's steps
GENERATIONS_FOLDER: Final = "generations"
TOKENS_FOLDER: Final = "tokens"
FOLDERS: Final = (TOKENS_FOLDER, GENERATIONS_FOLDER)  # data folders, with the shards' files
REPORT: Final = "report.html"
SIDE_FILES: Final = "prompt-*.js"

REPORT_MARK: Final = '<meta name="generator" content="eexit">'
REPORT_HEAD_BYTES: Final = 1 << 20  # a report's mark is within these bytes from its start
SIDE_FILE_START: Final = "eexitData("

_SHARD_FILE = re.compile(r"[0-9a-f]{32}\.parquet")
_TEMPORARY_FILE = re.compile(r"\.[0-9a-f]{32}\.parquet\.[0-9a-f]{32}\.tmp")
_CHECKSUM = "checksum"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Manifest of a sweep's results: the fields of `sweep.json`, without its checksum."""

    format: int = FORMAT
    config: Mapping[str, Any]  # an `eexit.plan.sweep_config.SweepConfig`
    configurations: Sequence[Mapping[str, Any]] = field(default_factory=list)  # in order: keys, and their `columns`
    model: Mapping[str, Any]  # an `eexit.plan.model_description.ModelDescription`
    dtype_asked: str = ""  # `--dtype` as given, such as auto; the model and the configuration have the resolved dtype
    exitable_layers: Sequence[int]
    learned: Mapping[str, Any] = field(default_factory=dict)  # an `eexit.plan.artefacts.ArtefactCard` for each role
    own: Sequence[Mapping[str, Any]] = field(default_factory=list)  # `eexit.method.custom_manifest.descriptions_of`
    n_runs: int | None = None  # planned runs
    versions: Mapping[str, str | None] = field(default_factory=dict)  # of Python and packages
    started: str = ""  # ISO 8601, UTC

    def of_prompts(self, name: str) -> dict[str, str]:
        """Return prompt id → this value of the prompt, such as its `prefiller`, or else the sweep's value."""
        prompts = self.config["prompts"]
        return {each["id"]: self.config[name] if each.get(name) is None else each[name] for each in prompts}


# Types of the keys that readers use, since a manifest may come from an untrusted source. Other keys are not checked.
_Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]  # safe to print on a terminal
_Index = Annotated[int, Field(ge=0)]


class _Prompt(TypedDict):
    id: str
    prompt: str
    group: NotRequired[str | None]
    kind: NotRequired[str | None]
    prefiller: NotRequired[str | None]
    max_new_tokens: NotRequired[int | None]


class _Config(TypedDict):
    prompts: list[_Prompt]
    model: NotRequired[_Name]
    dtype: NotRequired[_Name]
    seeds: Annotated[list[int], Field(min_length=1)]
    temperature: float
    top_p: NotRequired[float]
    max_new_tokens: NotRequired[int]
    record_full_depth: NotRequired[Literal["all", "final", "none"]]
    screen: NotRequired[_Name | None]
    readout: NotRequired[_Name | None]
    probe: NotRequired[_Name | None]
    gate: NotRequired[_Name | None]
    adapter: NotRequired[_Name | None]
    kv_maps: NotRequired[_Name | None]
    digests: NotRequired[dict[str, str]]
    shown_names: NotRequired[dict[_Name, _Name]]
    quantize: NotRequired[_Name | None]
    trust_remote_code: NotRequired[bool]


class _Columns(TypedDict):
    key: _Name
    mode: _Name
    rule: NotRequired[_Name | None]
    parameter: NotRequired[float | None]
    exit_set: NotRequired[Annotated[str, Field(pattern=r"^\d+(,\d+)*$")] | None]
    gate: NotRequired[_Name | None]
    prompt_exits: NotRequired[bool | None]
    control_of: NotRequired[_Name | None]
    draft_layer: NotRequired[int | None]
    draft_length: NotRequired[Annotated[str, Field(pattern=r"^\d+$")] | None]


class _Model(TypedDict):
    name: NotRequired[_Name]
    n_layers: Annotated[int, Field(ge=1)]
    revision: NotRequired[_Name | None]
    parts: NotRequired[dict[_Name, str] | None]
    digest: NotRequired[_Name | None]
    dtype: _Name
    quantization: NotRequired[_Name | None]
    gguf_bits: NotRequired[int | None]
    shape: NotRequired[dict[_Name, float] | None]


class _Custom(TypedDict):
    kind: Literal["rule", "mode"]
    name: _Name
    source: _Name
    text: str
    digest: str
    definition: str


class _Manifest(TypedDict):
    format: int
    config: _Config
    configurations: NotRequired[list[_Columns]]
    model: _Model
    dtype_asked: NotRequired[_Name]
    exitable_layers: list[_Index]
    learned: NotRequired[dict[str, dict[str, Any]]]
    own: NotRequired[list[_Custom]]
    n_runs: NotRequired[_Index | None]
    versions: NotRequired[dict[_Name, _Name | None]]
    started: NotRequired[_Name]


_TYPES: Final = TypeAdapter(_Manifest)


class UnsupportedFormatError(ValueError):
    """A `sweep.json` in a format that this version can't read."""


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a `sweep.json`."""
    content = asdict(manifest)
    return json.dumps({**content, _CHECKSUM: checksum(content)}, indent=1, ensure_ascii=False).encode()


def decode_manifest(content: bytes) -> Manifest:
    """Return the manifest in a `sweep.json`, and register its custom rules and modes from their descriptions.

    Raise `ValueError` if it is damaged, no manifest, or has impossible values; `UnsupportedFormatError` for another
    format.
    """
    try:
        held = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError also for bytes that are not UTF-8
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError("it is not an object")
    if isinstance(held.get("format"), int) and held["format"] != FORMAT:
        raise UnsupportedFormatError(f"it has format {held['format']}, not {FORMAT}")
    if held.pop(_CHECKSUM, None) != checksum(held):
        raise ValueError("its checksum does not match")
    try:
        _TYPES.validate_python(held, strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
    manifest = Manifest(**{field.name: held[field.name] for field in fields(Manifest) if field.name in held})
    register_from_manifest(manifest.own)
    return manifest


def generations_name(stem: str) -> str:
    """Return the name of a shard's generations file."""
    return f"{GENERATIONS_FOLDER}/{stem}.parquet"


def tokens_name(stem: str) -> str:
    """Return the name of a shard's tokens file."""
    return f"{TOKENS_FOLDER}/{stem}.parquet"


def is_shard_file(name: str) -> bool:
    """Return True if a file of this name belongs to a shard (in a data folder) or to a call (in a study's folder)."""
    return bool(_SHARD_FILE.fullmatch(name))


def is_temporary_file(name: str) -> bool:
    """Return True if a file of this name in a data folder is an incomplete shard file of a killed process."""
    return bool(_TEMPORARY_FILE.fullmatch(name))


def side_folder_name(report: str) -> str:
    """Return the name of the folder of a report's side files, loaded by the page on demand, such as `report.data`."""
    return PurePath(report).with_suffix(".data").name


def side_file_name(number: int) -> str:
    """Return the name of the side file with the tokens of the prompt with this number."""
    return SIDE_FILES.replace("*", str(number))


def is_report(head: bytes) -> bool:
    """Return True if these are the first bytes of a report that this program wrote."""
    return REPORT_MARK.encode() in head


def is_side_file(head: bytes) -> bool:
    """Return True if these are the first bytes of a report's side file."""
    return head.startswith(SIDE_FILE_START.encode())
