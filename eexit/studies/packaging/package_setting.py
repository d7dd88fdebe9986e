"""Packaging a setting: `package_setting`, for `eexit package`. Needs no Ray.

The package is built in a scratch folder and renamed at the end, so that `out` never has half of one. It includes a
README and, if it has a name on the Hub, the files of a repository there.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from transformers import PreTrainedModel

from eexit.costs.operations import COSTS
from eexit.custom_generate.description import call_to_load, describe_package
from eexit.custom_generate.model_check import config_facts
from eexit.custom_generate.package import (
    ARTEFACTS,
    MOMENT,
    README,
    SETTING,
    PackagedModel,
    SettingPackage,
    TextMatch,
    encode_package,
    single_setting_config,
)
from eexit.custom_generate.setting import Setting
from eexit.errors import UsageError
from eexit.method.custom_manifest import descriptions_of
from eexit.method.rules import ExitHistogram
from eexit.model.adapters import sharing
from eexit.model.decoders import build_decoders
from eexit.model.loading import eos_token_ids, load_model_and_tokenizer
from eexit.model.quantization import dtype_name, quantization_of
from eexit.model.sources import DEFAULT_MODEL, sha256
from eexit.output.atomic_files import publish, scratch_folder
from eexit.output.locations import redact
from eexit.output.text import with_versions
from eexit.plan.artefacts import ADAPTER, CARD, TUNED_LENS, locations_of, read_card
from eexit.plan.configuration import PROMPTS_SAVE_NOTHING, Configuration, Draft, EarlyExit, configuration_of
from eexit.plan.model_description import describe_model, weights_digest
from eexit.plan.sweep_config import SweepConfig
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model, refuse_unknown
from eexit.results.owned_folders import refuse_inside
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import versions
from eexit.studies.packaging.provenance import certificate_of, chosen_key, drawn, mean_savings, swept_texts, timed
from eexit.sweeps.head_moment import keep_moment, moment_of
from eexit.training.texts import TrainingText

COLUMNS: Final = ("prompt_id", "prompt", "configuration", "seed", *COSTS)

Say = Callable[[str], None]


@dataclass(frozen=True)
class PackageArgs:
    """Flags of `eexit package`; without a key, the latest choice's setting is packaged."""

    results: str
    out: str
    key: str | None = None
    hub: str | None = None  # repository name
    dtypes: Sequence[str] = ()  # further precisions to measure
    device: str = "auto"
    trusts_code: bool = False  # runs the model's Python code


def package_setting(wanted: PackageArgs, say: Say = lambda line: None) -> SettingPackage:
    """Write the package that the flags describe. Raise `UsageError` if the setting can't be packaged."""
    out = _free_place(wanted.out)
    if wanted.hub is not None:
        _refuse_hub(wanted.hub)
    sweep = read_finished(wanted.results, COLUMNS, trusts_code=wanted.trusts_code)
    key = wanted.key or chosen_key(sweep)
    configuration = _configuration(sweep, key)
    config = sweep.config()
    say(f"{key}: inspecting the model")
    refuse_changed_model(sweep, asdict(describe_model(config)))
    texts = swept_texts(sweep, key, config.seeds[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out) as scratch:
        folder = scratch / out.name
        folder.mkdir()
        package = _Packager(sweep, config, configuration, folder).take(texts, wanted, say)
        (folder / SETTING).write_text(encode_package(package), "utf-8")
        for name, text in {**readme(package, wanted.out), **hub_files(wanted.hub)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        if out.exists():  # an empty folder
            out.rmdir()
        publish(folder, out)
    return package


class _Packager:
    """Writer of one setting's package into a folder."""

    def __init__(self, sweep: FinishedSweep, config: SweepConfig, configuration: Configuration, folder: Path):
        self._sweep, self._folder, self._configuration = sweep, folder, configuration
        layers = [int(layer) for layer in sweep.manifest.exitable_layers]
        alone = single_setting_config(config, configuration, layers)
        self._config = {**alone, **_copied(alone, folder)}
        self._of_sweep = config

    def take(self, texts: Sequence[TrainingText], wanted: PackageArgs, say: Say) -> SettingPackage:
        """Return the package's content, after the model has generated `texts` of the sweep again in each dtype."""
        package = self._unmeasured()
        for dtype in dict.fromkeys((self._of_sweep.dtype, *wanted.dtypes)):
            package = self._measured(package, dtype, texts, wanted, say)
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        digests = {path.relative_to(self._folder).as_posix(): sha256([path]) for path in files}
        return package.model_copy(update={"files": digests})

    def _unmeasured(self) -> SettingPackage:
        store, described, key = self._sweep.store, self._sweep.manifest.model, self._configuration.key
        return SettingPackage(
            configuration=self._configuration.columns,
            config=self._config,
            eos_token_ids=[],
            model=PackagedModel(
                **{name: described[name] for name in ("name", "revision", "dtype", "architecture", "n_layers")},
                dtype_asked=self._sweep.manifest.dtype_asked,
                config={},
                measured={},
            ),
            prompts=drawn(self._of_sweep),
            certificate=certificate_of(store, key),
            timed=timed(store, key),
            saved=mean_savings(self._sweep, key),
            own=descriptions_of({self._configuration.mode, str(self._configuration.columns["rule"])}),
            files={},
            versions=versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _measured(
        self, package: SettingPackage, dtype: str, texts: Sequence[TrainingText], wanted: PackageArgs, say: Say
    ) -> SettingPackage:
        """Return the package with `dtype` added, and with the number of the sweep's `texts` that it reproduces."""
        model, tokenizer = load_model_and_tokenizer(self._of_sweep.model_copy(update={"dtype": dtype}), wanted.device)
        weights, name, device = weights_digest(model), dtype_name(model.dtype), model.device.type
        unknown = TextMatch(device=device, weights=weights, runs=len(texts), identical=0)
        held = {**package.model.measured, name: unknown}
        of_model = package.model.model_copy(
            update={"measured": held, "config": config_facts(model), "quantization": quantization_of(model)}
        )
        ends = sorted(eos_token_ids(model, tokenizer))
        package = package.model_copy(update={"model": of_model, "eos_token_ids": ends})
        say(f"{name}: writing {len(texts)} texts of the sweep again")
        setting = Setting(package, self._folder)
        self._keep_screen(model, package)
        identical = _identical(setting, model, texts, self._of_sweep)
        if name == self._of_sweep.dtype == "float32" and identical < len(texts):
            raise UsageError(
                f"in float32, only {identical} of {len(texts)} texts of the sweep come out the same: it was made on "
                "another kind of machine, or by another version; run the sweep again with this one"
            )
        held = {**held, name: unknown.model_copy(update={"identical": identical})}
        return package.model_copy(update={"model": of_model.model_copy(update={"measured": held})})

    def _keep_screen(self, model: PreTrainedModel, package: SettingPackage) -> None:
        """Copy the second moment that a screen was fitted with: another machine would compute slightly other values."""
        if not self._of_sweep.screen:
            return
        adapter = locations_of(package.config).get("adapter")
        student = build_decoders(sharing(model), adapter and str(self._folder / adapter), packed=False).early_exit
        keep_moment(self._folder / MOMENT.format(dtype=dtype_name(model.dtype)), moment_of(student))


def _free_place(out: str) -> Path:
    """Return the folder's path. Raise `UsageError` unless it is missing or empty."""
    if "://" in out:
        raise UsageError(f"--out {redact(out)} is a URI: give a local folder")
    path = Path(out).expanduser()
    refuse_inside(open_store(path), f"--out {out}")
    if path.is_file():
        raise UsageError(f"--out {out} is a file: give a folder")
    if path.is_dir() and (held := sorted(each.name for each in path.iterdir())):
        raise UsageError(f"--out {out} holds {held[0]}, and nothing there is replaced: choose another place")
    return path


def _refuse_hub(name: str) -> None:
    """Raise `UsageError` for an invalid repository name, since the name is written into code."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--hub {name} is no repository's name: give one as in me/mine") from error


def _configuration(sweep: FinishedSweep, key: str) -> Configuration:
    """Return the sweep's configuration with this key. Raise `UsageError` if it can't be packaged."""
    planned = {str(each["key"]): each for each in sweep.manifest.configurations}
    refuse_unknown([key], list(planned), sweep.name)
    match configuration := configuration_of(planned[key]):
        case EarlyExit() if configuration.is_oracle:
            raise UsageError(
                f"{key} can't be packaged: rule {configuration.rule} reads the final layer, so that all layers have "
                f"to run and nothing is saved; an online rule can (predicted_kl is kl with a trained probe)"
            )
        case EarlyExit(prompt_exits=True):
            plain = replace(configuration, prompt_exits=False).key
            raise UsageError(f"{key} can't be packaged: {PROMPTS_SAVE_NOTHING}; sweep and package {plain}")
        case EarlyExit(parameter=ExitHistogram(of=of)):
            raise UsageError(
                f"{key} can't be packaged: it is a control, which exits whatever the token; take {of}, whose "
                "exits it copies"
            )
        case EarlyExit() | Draft():
            return configuration
    raise UsageError(f"{key} can't be packaged: it has no exits, so that plain generate does the same")


def _copied(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Copy the sweep's artefacts into the folder, and return new paths by role. Raise `UsageError` for altered ones."""
    places: dict[str, str] = {}
    for role, location in locations_of(config).items():
        name, card = f"{ARTEFACTS}/{role}", read_card(location, role)
        if config["digests"].get(role) != card.digest:
            raise UsageError(f"{location} was trained anew since the sweep was planned: run the sweep again")
        (folder / name).mkdir(parents=True)
        for file in (*card.files, *([] if role == ADAPTER or card.what == TUNED_LENS else [CARD])):
            shutil.copyfile(Path(location).expanduser() / file, folder / name / file)
        places[role] = name
    return places


def _identical(setting: Setting, model: PreTrainedModel, texts: Sequence[TrainingText], config: SweepConfig) -> int:
    """Return how many of the texts the setting generates identically, in one batch that is padded on the left."""
    prompts = [*dict.fromkeys(text.prompt_token_ids for text in texts)]  # a repeated prompt would get another seed
    width, pad = max(map(len, prompts)), 0
    rows = [[*[pad] * (width - len(ids)), *ids] for ids in prompts]
    masks = [[*[0] * (width - len(ids)), *[1] * len(ids)] for ids in prompts]
    sampling: Mapping[str, Any] = {"do_sample": False}
    if config.temperature:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
    output = setting.generate(
        model,
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(masks, device=model.device),
        max_new_tokens=config.most_new_tokens,
        seed=setting.package.seed,
        return_dict_in_generate=True,
        pad_token_id=pad,
        eos_token_id=setting.package.eos_token_ids or None,
        repetition_penalty=1.0,  # in place of the model's generation_config
        **sampling,
    )
    made = [row[width:][exits >= 0].tolist() for row, exits in zip(output.sequences, output.exit_layers, strict=True)]
    texts_by_prompt = dict(zip(prompts, map(tuple, made), strict=True))
    # A text may have ended at its prompt's own limit.
    return sum(texts_by_prompt[text.prompt_token_ids][: len(text.token_ids)] == text.token_ids for text in texts)


GENERATE = '''"""Generates with the setting in this repository: `custom_generate="{hub}"`, by the package eexit."""

from functools import cache
from pathlib import Path

import eexit

REPOSITORY = "{hub}"


@cache
def setting():
    from huggingface_hub import snapshot_download

    is_folder = Path(REPOSITORY).is_dir()
    return eexit.load(REPOSITORY if is_folder else snapshot_download(REPOSITORY))


def generate(model, **arguments):
    return setting().generate(model, **arguments)
'''


def readme(package: SettingPackage, out: str) -> dict[str, str]:
    """Return the package's README: file name → content."""
    model = package.model
    facts = "\n".join(f"- {line}" for line in describe_package(package).splitlines())
    loading, made = _loading(package), with_versions(package.versions)
    text = f"""# {package.key} of {model.name}

A setting for early exit: tokens that are certain after a few layers skip the others. It was packaged from a sweep by
[eexit](https://pypi.org/project/eexit/), and runs in `generate` of transformers:

```python
{loading}
setting = {call_to_load(package, redact(out))}  # this folder
output = model.generate(**inputs, custom_generate=setting)
```

{facts}

`model` has to be {model.name}, loaded as above: a digest of its weights is compared with that in `setting.json` when it
is used first, and any other model is refused. It stays as it was. Made {package.made} with {made}.
"""
    return {README: text}


def _loading(package: SettingPackage) -> str:
    """Return Python lines that load the model."""
    model, dtype = package.model, next(iter(package.model.measured))
    quantize = package.config.get("quantize")
    if quantize or model.name == DEFAULT_MODEL or model.name.lower().endswith(".gguf"):
        given = "" if model.name == DEFAULT_MODEL else f"{model.name!r}, "
        given += f"dtype={dtype!r}" + (f", quantize={quantize!r}" if quantize else "")
        return f"import eexit\n\nmodel, tokenizer = eexit.load_default_model_and_tokenizer({given})"
    further = f", revision={model.revision!r}" if model.revision else ""
    if package.config.get("trust_remote_code"):
        further += ", trust_remote_code=True"
    return (
        "import eexit\nimport torch\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({model.name!r}{further}, dtype=torch.{dtype}).eval()"
    )


def hub_files(hub: str | None) -> dict[str, str]:
    """Return a `custom_generate` repository's files by name; none without a repository name."""
    if hub is None:
        return {}
    return {"custom_generate/generate.py": GENERATE.format(hub=hub), "custom_generate/requirements.txt": "eexit\n"}
