"""Models of others, as settings run them: whether one is the model that a setting is for, and can be run.

It is asked once for each setting and model: whoever changes a model afterwards loads the setting again.
"""

from typing import Any, Final

from transformers import PreTrainedModel

from eexit.custom_generate.taken import Taken
from eexit.errors import UsageError
from eexit.model.quantization import dtype_name, quantization_of
from eexit.model.refusals import refuse_compiled
from eexit.model.structure import find_stack
from eexit.output.text import some, with_weights
from eexit.plan.model_description import weights_digest

_WAY_OUT: Final = "load that model, or take a setting of this one home"


# Names of files, of tokens, of what is returned and of how weights are held; none changes what the layers compute.
_ASIDE: Final = (
    "architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "transformers_version",
    "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_llama_config",
    "quantization_config",
)  # fmt: skip


def check(model: PreTrainedModel, taken: Taken, name: str) -> None:
    """Raises `UsageError` unless this model is the one that the setting called `name` is for, as it was loaded."""
    refuse_unusual(model)
    _refuse_precision(model, taken, name)  # before weights are read
    if weights_digest(model) != taken.model.measured[precision(model)].weights:
        raise UsageError(f"{name} is for {_called(taken)}, and this model has other weights: {_WAY_OUT}")
    facts = config_facts(model)
    for fact, value in taken.model.config.items():
        if fact not in facts or facts[fact] != value:
            raise UsageError(
                f"{name} is for {_called(taken)} with {fact}={value}, and this model has {facts.get(fact)}: {_WAY_OUT}"
            )


def precision(model: PreTrainedModel) -> str:
    """The dtype of a model's weights, such as `float32`."""
    return dtype_name(model.dtype)


def _refuse_precision(model: PreTrainedModel, taken: Taken, name: str) -> None:
    quantization = quantization_of(model)
    if quantization != taken.model.quantization:
        measured_with = with_weights(taken.model.quantization) or " with weights as they were"
        is_this = "not quantised" if quantization is None else f"quantised ({quantization})"
        raise UsageError(
            f"{name} was measured{measured_with}, and the model is {is_this}: load it as {name}/README.md says, or "
            "take a setting of this one home"
        )
    dtype, device, measured = precision(model), model.device.type, taken.model.measured
    if dtype not in measured:
        known = " or ".join(f"dtype=torch.{each}" for each in measured)
        raise UsageError(
            f"{name} was not measured in {dtype}: load the model with {known}, or take the setting home again with "
            f"--dtypes {dtype}"
        )
    if device != measured[dtype].device:
        raise UsageError(
            f"{name} was measured on {measured[dtype].device}, and the model is on {device}: move it there, or take "
            f"the setting home again on a machine with {device}"
        )


def _called(taken: Taken) -> str:
    return taken.model.name + (f" at revision {taken.model.revision}" if taken.model.revision else "")


def config_facts(model: PreTrainedModel) -> dict[str, Any]:
    """What a model's configuration says of what it computes, where that differs from the family's defaults."""
    found: dict[str, Any] = model.config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in _ASIDE and name[0] != "_"}


def refuse_unusual(model: PreTrainedModel) -> None:
    """Raises `UsageError` for a model that is compiled, not on one device, hooked outside of its layers or patched.

    Hooks on layers, and on what is in them, are no reason: a layer that runs is called as in a plain forward, and exits
    are read from what a hook makes of its output. What is outside runs at other times than in plain `generate`: the
    norm and the head wherever a layer is read. Of a module that holds others, parts may run alone, without a `forward`
    that it was given.
    """
    refuse_compiled(model)
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise UsageError(
            f"the model is spread over {', '.join(some(devices))}: load it onto one device, without offloading"
        )
    path, layers = find_stack(model, model.config.get_text_config(decoder=True).num_hidden_layers)
    in_layers = f"{path}.{layers}." if path else f"{layers}."
    for name, module in model.named_modules():
        what = f"the model's {name}" if name else "the model"
        # Hooks of transformers' own look on when hidden states are asked for.
        hooks = [hook for kind in ("_forward_hooks", "_forward_pre_hooks") for hook in vars(module)[kind].values()]
        if not name.startswith(in_layers) and not all(_is_of_transformers(hook) for hook in hooks):
            raise UsageError(
                f"{what} has a forward hook, which would see other calls here than in plain generate: remove it (its "
                "handle has remove()), put it on a layer, or generate without custom_generate"
            )
        if "forward" in vars(module) and any(module.children()):
            raise UsageError(
                f"{what} has a forward of its own in place of that of its class, and a part of it may run alone here: "
                "load the model again, or generate without custom_generate"
            )


def _is_of_transformers(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
