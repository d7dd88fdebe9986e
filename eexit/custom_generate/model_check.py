"""Checks that a model is the one that a packaged setting is for, and that it can be run.

A setting checks each model once: after changing a model, load the setting again.
"""

from typing import Any, Final

from transformers import PreTrainedModel

from eexit.custom_generate.package import SettingPackage
from eexit.errors import UsageError
from eexit.model.quantization import dtype_name, quantization_of
from eexit.model.support import refuse_compiled, refuse_hooked
from eexit.output.text import truncate_lines, with_weights
from eexit.plan.model_description import weights_digest

_WAY_OUT: Final = "load that model, or package a setting of this one"


# Names of files, tokens, returned values and weight formats, none of which changes what the layers compute.
_ASIDE: Final = (
    "architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "transformers_version",
    "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_llama_config",
    "quantization_config",
)  # fmt: skip


def check_model(model: PreTrainedModel, package: SettingPackage, name: str) -> None:
    """Raise `UsageError` unless a model has the weights and configuration that a package was made for.

    `name` is the setting's name in messages.
    """
    refuse_unusual(model)
    _refuse_precision(model, package, name)  # before weights are read
    if weights_digest(model) != package.model.measured[dtype_name(model.dtype)].weights:
        raise UsageError(f"{name} is for {_called(package)}, and this model has other weights: {_WAY_OUT}")
    facts = config_facts(model)
    for fact, value in package.model.config.items():
        if fact not in facts or facts[fact] != value:
            raise UsageError(
                f"{name} is for {_called(package)} with {fact}={value}, and this model has {facts.get(fact)}: "
                f"{_WAY_OUT}"
            )


def _refuse_precision(model: PreTrainedModel, package: SettingPackage, name: str) -> None:
    quantization = quantization_of(model)
    if quantization != package.model.quantization:
        measured_with = with_weights(package.model.quantization) or " with weights as they were"
        is_this = "not quantised" if quantization is None else f"quantised ({quantization})"
        raise UsageError(
            f"{name} was measured{measured_with}, and the model is {is_this}: load it as in {name}/README.md, or "
            "package a setting of this one"
        )
    dtype, device, measured = dtype_name(model.dtype), model.device.type, package.model.measured
    if dtype not in measured:
        known = " or ".join(f"dtype=torch.{each}" for each in measured)
        raise UsageError(
            f"{name} was not measured in {dtype}: load the model with {known}, or package the setting again with "
            f"--dtypes {dtype}"
        )
    if device != measured[dtype].device:
        raise UsageError(
            f"{name} was measured on {measured[dtype].device}, and the model is on {device}: move it there, or "
            f"package the setting again on a machine with {device}"
        )


def _called(package: SettingPackage) -> str:
    return package.model.name + (f" at revision {package.model.revision}" if package.model.revision else "")


def config_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Return the values of a model's configuration that affect its output and differ from the family's defaults."""
    found: dict[str, Any] = model.config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in _ASIDE and name[0] != "_"}


def refuse_unusual(model: PreTrainedModel) -> None:
    """Raise `UsageError` for a model that is compiled, not on one device, patched, or hooked outside its layers."""
    refuse_compiled(model)
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        named = ", ".join(truncate_lines(devices))
        raise UsageError(f"the model is spread over {named}: load it onto one device, without offloading")
    refuse_hooked(model)
