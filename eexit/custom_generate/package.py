"""The content of a package: `setting.json`, and copies of the artefacts that it names.

    setting.json     the setting, its model and its guarantee: a `SettingPackage`, with a checksum
    artefacts/       trained artefacts, in a folder for each role, as eexit train makes them; and screens/
    README.md        the setting and its guarantee, in sentences
    custom_generate/ for a repository on the Hugging Face Hub (`eexit package --hub`)

A setting is a sweep's configuration without prompts and with one setting in place of a grid. It therefore covers all
that a sweep may use: a new artefact needs only one more field of `eexit.plan.sweep_config.SweepConfig` and one more
role in `eexit.plan.artefacts.FLAGS`. This module does not import torch.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eexit.errors import UsageError
from eexit.method.custom_manifest import refuse_changed
from eexit.model.sources import sha256
from eexit.plan.artefacts import locations_of
from eexit.plan.configuration import EVERY, Configuration, Draft, EarlyExit, configuration_of
from eexit.plan.hashes import checksum
from eexit.plan.runs import used_by
from eexit.plan.sweep_config import NO_EXITS, SweepConfig

SETTING: Final = "setting.json"
README: Final = "README.md"
ARTEFACTS: Final = "artefacts"
MOMENT: Final = f"{ARTEFACTS}/screens/{{dtype}}.safetensors"  # the second moment that fits screens, by precision
FORMAT: Final = 1
_CHECKSUM: Final = "checksum"
_NO_PROMPTS: Final = {"prompts": [{"id": "0", "prompt": ""}]}
_PACKAGE_AGAIN: Final = "package it again with eexit package"


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TextMatch(_FrozenModel):
    """Test that a model in one precision reproduces the sweep's texts: `identical` of `runs`, token for token."""

    device: str  # device type, such as cpu
    weights: str  # `eexit.plan.model_description.weights_digest` of the model loaded in this precision
    runs: int
    identical: int


class PackagedModel(_FrozenModel):
    """Model that a setting was made for: its weights' digests, its `config`, and the precisions `measured`."""

    name: str
    revision: str | None
    dtype: str  # dtype of the sweep
    dtype_asked: str  # auto, where `dtype` is the resolved one
    architecture: str
    n_layers: int
    config: dict[str, Any]
    measured: dict[str, TextMatch]
    quantization: str | None = None  # of the weights, such as int8; None if not quantised


class HeldOutCheck(_FrozenModel):
    """The setting on the test split. `upper` bounds the risk by these prompts alone."""

    mean_loss: float
    n: int
    upper: float
    p_value: float


class Certificate(_FrozenModel):
    """Certificate that a risk is at most a bound, with a confidence, for prompts drawn as its calibration prompts."""

    risk: str
    loss: str  # definition of the loss, in words
    max_risk: float
    confidence: float
    n: int  # calibration prompts
    mean_loss: float
    p_value: float
    loss_of_right: float | None = None  # on the prompts that normal gets right, where answers are the risk
    n_of_right: int | None = None
    p_of_right: float | None = None
    loss_of_prompts: float | None = None  # mean over single prompts, where n is of groups of unequal size
    n_of_prompts: int | None = None
    test: str
    order: str
    question: int  # number of this use of the calibration prompts, from 1
    held_out: HeldOutCheck | None


class PromptDistribution(_FrozenModel):
    """The sweep's prompts and how their texts were generated, which delimit the guarantee."""

    n: int
    kinds: dict[str, int]  # by `eexit.plan.splits.kinds`
    examples: list[str]
    system: str
    prefiller: str
    max_new_tokens: int
    temperature: float
    top_p: float


class TimingRecord(_FrozenModel):
    """Timing of the setting at one batch size. Savings are fractions of full depth's time."""

    rows: int
    tokens_per_second: float
    saved: float
    low: float | None  # ends of the interval of `saved`
    high: float | None
    rounds: int
    machine: str | None
    of_generate: float | None = None  # time as a multiple of that of transformers' own generation


class SettingPackage(_FrozenModel):
    """A packaged setting."""

    format: Literal[1] = FORMAT
    configuration: dict[str, Any]  # `eexit.plan.configuration.Configuration.columns`
    config: dict[str, Any]  # a `SweepConfig` without prompts; its artefacts are folders in the package
    eos_token_ids: list[int]
    model: PackagedModel
    prompts: PromptDistribution
    certificate: Certificate | None
    timed: list[TimingRecord]
    saved: dict[str, float | None]  # theoretical and run savings in the sweep, as fractions of full-depth multiply-adds
    own: list[dict[str, Any]] = []  # its custom rule and mode: `eexit.method.custom_manifest.descriptions_of`
    files: dict[str, str]  # SHA-256 of each file that the setting needs beside this one, by file name
    versions: dict[str, str | None]
    made: str  # ISO 8601, UTC

    @property
    def key(self) -> str:
        return str(self.configuration["configuration"])

    @property
    def setting(self) -> Configuration:
        """Configuration under which the package decodes every sequence."""
        return configuration_of(self.configuration)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Layers where tokens may exit, or where they are drafted."""
        match self.setting:
            case EarlyExit(layers=layers) if layers:
                return layers
            case Draft(layer):
                return (layer,)
        return tuple(self.config["exit_layers"])

    @property
    def seed(self) -> int:
        """Seed of the sweep's first runs."""
        return int(self.config["seeds"][0])


def single_setting_config(config: SweepConfig, configuration: Configuration, layers: list[int]) -> dict[str, Any]:
    """Return a sweep's configuration as JSON, without prompts and with one setting in place of its grid."""
    grid: dict[str, Any] = {**NO_EXITS, "exit_sets": (EVERY,)}
    match configuration:
        case EarlyExit(mode, rule, parameter):
            grid |= {"modes": (mode,), "rules": {rule: () if parameter is None else (parameter,)}}
            grid["exit_sets"] = (configuration.exit_set or EVERY,)
            grid |= {role: getattr(config, role) for role in used_by(configuration)}
            if configuration.gate is not None:
                grid["gate_thresholds"] = (float(configuration.gate),)
        case Draft():
            grid["draft"] = (str(configuration),)
    whole = {**config.model_dump(mode="json", exclude={"prompts"}), **grid}
    digests = {role: digest for role, digest in config.digests.items() if whole[role] is not None}
    return {**whole, "digests": digests, "exit_layers": layers}


def encode_package(package: SettingPackage) -> str:
    content = package.model_dump(mode="json")
    return json.dumps({**content, _CHECKSUM: checksum(content)}, indent=1, ensure_ascii=False) + "\n"


def read_package(folder: Path) -> SettingPackage:
    """Return the setting in a folder, after verifying all files. Raise `UsageError` for missing or altered ones."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder that is there: give one that eexit package made")
    try:
        held = json.loads((folder / SETTING).read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder} has no {SETTING}: give a folder that eexit package made") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/{SETTING} is cut off or damaged: {_PACKAGE_AGAIN}") from error
    if not isinstance(held, dict) or "format" not in held:
        raise UsageError(f"{folder}/{SETTING} is of no setting: give a folder that eexit package made")
    if held["format"] != FORMAT:
        raise UsageError(
            f"{folder} has format {held['format']}, and this version of eexit reads {FORMAT}: install the version that "
            f"made it ({(held.get('versions') or {}).get('eexit')}), or {_PACKAGE_AGAIN}"
        )
    if held.pop(_CHECKSUM, None) != checksum(held):
        raise UsageError(f"{folder}/{SETTING} was altered, so that its guarantee is void: {_PACKAGE_AGAIN}")
    try:
        package = SettingPackage.model_validate(held)
    except ValidationError as error:
        raise UsageError(f"{folder}/{SETTING} is half a setting ({_first(error)}): {_PACKAGE_AGAIN}") from error
    for name, digest in package.files.items():
        path = inside(folder, name)
        if not path.is_file():
            raise UsageError(f"{folder} is half a setting, since {name} is missing: {_PACKAGE_AGAIN}")
        if sha256([path]) != digest:
            raise UsageError(f"{folder}/{name} is not the file that was packaged: {_PACKAGE_AGAIN}")
    return package


def packaged_config(package: SettingPackage, folder: Path) -> SweepConfig:
    """Return the sweep's configuration with the artefacts' current paths, without loading a model or trusting its code.

    Raise `UsageError` if this version can't read it, or unless its custom rule and mode are given again.
    """
    refuse_changed(package.own, str(folder))
    artefacts = {role: str(inside(folder, name)) for role, name in locations_of(package.config).items()}
    try:
        return SweepConfig.model_validate({**package.config, **_NO_PROMPTS, **artefacts, "trust_remote_code": False})
    except ValidationError as error:
        raise UsageError(
            f"{folder} has fields that this version of eexit lacks ({_first(error)}): install the version that "
            f"made it ({package.versions.get('eexit')})"
        ) from error


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder. Raise `UsageError` for a name outside the folder."""
    path = folder / name
    if PurePosixPath(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{folder}/{SETTING} names {name}, which is outside of that folder: {_PACKAGE_AGAIN}")
    return path


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
