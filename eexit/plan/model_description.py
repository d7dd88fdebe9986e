"""Description of a model, loaded or not, and its memory, without loading weights."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from eexit.errors import UsageError, first_line
from eexit.model.adapters import refuse_merging, refuse_without_peft
from eexit.model.chat import Tokenizer
from eexit.model.checkpoint import refuse_cut_off, refuse_misfit
from eexit.model.generation_config import values_of
from eexit.model.loading import (
    choose_device,
    choose_dtype,
    load_tokenizer,
    loading,
    read_config,
    read_generation_config,
)
from eexit.model.quantization import GROUP, INT4, dtype_name, method_of, parts_of, quantization_of, refuse_left_whole
from eexit.model.sources import DEFAULT_MODEL, GGUF_IN_WHEEL, GGUF_SHA256, PEFT_FILES, is_peft, locate, sha256
from eexit.model.structure import context_of, find_stack
from eexit.plan.sweep_config import SweepConfig

CONFIGURATION_FILES: Final = ("config.json", "generation_config.json")
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PREFIX: Final = "base_model.model."  # precedes the names of the model's modules in peft's weights file
_CHANGE: Final = re.compile(r"\.(?:lora_|base_layer\.|weight$|bias$)")  # follows the name of a changed module


@dataclass(frozen=True)
class ModelDescription:
    """Description of a sweep's model: the name as given, and the properties that were found.

    `parts` are the SHA-256 digests of a model folder's parts by name. `digest` is the hash of all parts, or of the GGUF
    file. A model from the hub has neither and is identified by its revision. `dtype` is what the model is loaded in,
    resolved on this machine if it depends on it. `quantization` is how weights are quantised, at loading or in the
    checkpoint. `gguf_bits` is the width of most weights in the GGUF file. `generation_config` has the model's own
    values that change the output of plain `generate`. `shape` is as in `shape_of`, None if it can't be found.
    """

    name: str
    revision: str | None
    parts: dict[str, str] | None
    digest: str | None
    architecture: str
    n_layers: int
    dtype: str
    quantization: str | None
    gguf_bits: int | None
    generation_config: dict[str, Any]
    shape: dict[str, float] | None = None


def describe_model(config: SweepConfig) -> ModelDescription:
    """Describe a sweep's model without loading its weights.

    Raises: `UsageError` if it can't be found, has no layers, or is a folder with an incomplete model.
    """
    location = locate(config.model, config.revision)
    found = read_config(config, location)
    n_layers = found.get_text_config(decoder=True).num_hidden_layers
    digest, parts = _file_digest(config.model, location), None
    if digest is None and Path(location).is_dir():
        with loading(config):
            _refuse_misfit_unloaded(config, location)
        parts = _digests(location, load_tokenizer(config))
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return ModelDescription(
        name=config.model,
        revision=getattr(found, "_commit_hash", None) or config.revision,
        parts=parts,
        digest=digest,
        architecture=(found.architectures or [found.model_type])[0],
        n_layers=n_layers,
        dtype=dtype_name(choose_dtype(config.dtype, choose_device("auto"), config.quantize)),
        quantization=config.quantize or method_of(found),
        gguf_bits=_gguf_bits(config.model),
        generation_config=read_generation_config(config, location, found),
        shape=_shape_unloaded(config, found),
    )


def shape_of(model: PreTrainedModel) -> dict[str, float]:
    """Return the shape of a model, which may be on the meta device. Raises `UsageError` if its layers aren't found.

    Keys: `width` of a hidden state, `vocabulary`, `parameters`, and `head_in_layers`, the multiply-adds of an lm_head
    read as a multiple of a layer's. A layer is the mean of all layers, without attention over positions. All experts of
    a layer count.
    """
    text, head = model.config.get_text_config(decoder=True), model.get_output_embeddings()
    path, name = find_stack(model, text.num_hidden_layers)
    of_layers = sum(map(_multiply_adds, getattr(model.get_submodule(path), name)))
    return {
        "width": text.hidden_size,
        "vocabulary": text.vocab_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "head_in_layers": 0.0 if head is None else _multiply_adds(head) * text.num_hidden_layers / of_layers,
    }


def _multiply_adds(module: nn.Module) -> int:
    """Return the number of weights in a module's matrices, each of which multiplies one number of a token."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def _shape_unloaded(config: SweepConfig, found: Any) -> dict[str, float] | None:
    with suppress(UsageError, RuntimeError, NotImplementedError):  # code that can't run without weights
        return shape_of(_without_weights(config, found))
    return None


def _refuse_misfit_unloaded(config: SweepConfig, folder: str) -> None:
    """Apply `refuse_misfit` to the files' headers only. Raises `UsageError`, also for truncated files.

    Quantised checkpoints, and models that can't be built on the meta device, are checked at loading instead.
    """
    if "quantization_config" in json.loads(Path(folder, "config.json").read_text()):
        return  # a quantiser may need a device that this machine lacks
    refuse_cut_off(config.model, folder)
    how = {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": config.trust_remote_code}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, device_map="meta", **how)
    except (RuntimeError, NotImplementedError):
        return
    refuse_misfit(config.model, loaded[1])


def name_of(model: PreTrainedModel) -> str:
    """Return the source of a loaded model by its configuration, or else the name of its class."""
    return model.config.name_or_path or type(model).__name__


def describe_loaded(model: PreTrainedModel, tokenizer: Tokenizer) -> ModelDescription:
    """Describe a loaded model by its parts in memory, since no file may have it under its name."""
    settings = model.config.to_dict()
    parts = {
        "weights": weights_digest(model),
        "configuration": _digest({name: settings[name] for name in sorted(settings) if name[0] != "_"}),
        "chat template": _digest(tokenizer.chat_template),
        "tokenizer": _digest(tokenizer.get_vocab()),
    }
    return ModelDescription(
        name=name_of(model),
        revision=getattr(model.config, "_commit_hash", None),
        parts=parts,
        digest=_digest(parts),
        architecture=type(model).__name__,
        n_layers=model.config.get_text_config(decoder=True).num_hidden_layers,
        dtype=dtype_name(model.dtype),
        quantization=quantization_of(model),
        gguf_bits=None,
        generation_config=values_of(model.generation_config),
        shape=shape_of(model) if quantization_of(model) is None else None,  # quantised matrices hold fewer numbers
    )


def weights_digest(model: PreTrainedModel) -> str:
    """Return the SHA-256 of all weights and persistent buffers: names, shapes, dtypes and values. Tied ones count once.

    Quantised weights are hashed with all their tensors and their method of multiplication.
    """
    content, names = hashlib.sha256(), dict[int, str]()
    for name, whole in model.state_dict().items():
        content.update(_beside_parts(whole).encode())
        for tensor in parts_of(whole):
            known = names.setdefault(tensor.data_ptr(), name)
            content.update(f"{name} {known} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            if known == name and tensor.numel():
                content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if (method := method_of(model.config)) is not None and quantization_of(model) == method:
        content.update(repr(model.config.quantization_config).encode())  # determines how its modules compute
    return content.hexdigest()


def _beside_parts(tensor: Tensor) -> str:
    """Return the type and attributes of a tensor subclass, which affect multiplication; empty for a plain tensor."""
    if not is_traceable_wrapper_subclass(tensor):
        return ""
    names, others = tensor.__tensor_flatten__()
    return f"{type(tensor).__name__} {names} {others}"


def estimate_memory(config: SweepConfig) -> tuple[int, int, int | None, tuple[int, int]]:
    """Estimate the memory of the weights and the KV cache, without loading anything.

    Returns: bytes of the weights, bytes of one token's KV cache (full-depth and early-exit passes together), the
    maximum length of a sequence or None, and bytes of one layer's weights and of the lm_head's.

    The weights include those that an adapter changes. Weights that a checkpoint has quantised count as unquantised.
    Activations and the device's libraries need further memory. Raises `UsageError` as `describe_model` does, and for an
    adapter that does not fit.
    """
    found = read_config(config, locate(config.model, config.revision))
    text = found.get_text_config(decoder=True)
    model = _without_weights(config, found)
    if config.quantize is not None:
        refuse_left_whole(config.quantize, model)
        if config.adapter is not None:
            refuse_merging(config.adapter, f"quantised ({config.quantize})")
    dtype, head = choose_dtype(config.dtype, choose_device("auto"), config.quantize), model.get_output_embeddings()
    size = dtype.itemsize
    held = partial(quantized_bytes, quantize=config.quantize, head=head, itemsize=size)
    weights = held(model) + (0 if config.adapter is None else own_weights(model, config.adapter) * size)
    parts = (0, 0)
    with suppress(UsageError):  # reported when the model is loaded
        path, name = find_stack(model, text.num_hidden_layers)
        parts = held(getattr(model.get_submodule(path), name)[0]), 0 if head is None else held(head)
    return weights, 2 * _numbers_per_position(model, text) * size, context_of(text), parts


def _without_weights(config: SweepConfig, found: Any) -> PreTrainedModel:
    with loading(config), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(found, trust_remote_code=config.trust_remote_code)
    return model


@torch.inference_mode()
def _numbers_per_position(model: PreTrainedModel, text: Any) -> int:
    """Return the number of values in one token's KV cache, by a run on the meta device or by the config."""
    cache = DynamicCache()
    with suppress(Exception):  # code that depends on values, such as routing to experts, fails on the meta device
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device="meta"), cache=cache, use_cache=True)
    n_layers: int = text.num_hidden_layers
    written: list[Any] = list(cache.layers)
    seen = [layer.keys.numel() + layer.values.numel() for layer in written if layer.is_initialized]
    return sum(seen) * n_layers // len(seen) if seen else sum(map(_numbers_named, text.per_layer_config))


def _numbers_named(layer: Any) -> int:
    heads: int = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width: int = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return 2 * heads * width


def own_weights(model: nn.Module, folder: str) -> int:
    """Return how many weights an adapter's model does not share with `model`, which may be on the meta device.

    Raises: `UsageError` as `merged` does.
    """
    path = Path(folder).expanduser()
    if not is_peft(path):
        return sum(parameter.numel() for parameter in model.parameters())
    refuse_without_peft(folder)
    try:
        with safe_open(path / PEFT_FILES[1], framework="pt") as held:
            names = {_CHANGE.split(name.removeprefix(_PREFIX))[0] for name in held.keys()}  # noqa: SIM118
        changed = [model.get_submodule(name) for name in names]
    except Exception as error:  # safetensors' own, and torch's for a module that is not there
        raise UsageError(f"--adapter {folder} can't be used with this model: {first_line(error)}") from error
    return sum(parameter.numel() for module in changed for parameter in module.parameters(recurse=False))


def quantized_bytes(module: nn.Module, quantize: str | None, head: nn.Module | None, itemsize: int) -> int:
    """Return the bytes of a module's weights after quantisation; the module is on the meta device."""
    total = sum(parameter.numel() for parameter in module.parameters()) * itemsize
    for each in module.modules() if quantize else ():
        if isinstance(each, nn.Linear) and each is not head:
            n_weights = each.weight.numel()
            packed = n_weights + 5 * each.out_features  # a float32 scale and a zero point for each output
            if quantize == INT4:
                packed = n_weights // 2 + 2 * itemsize * n_weights // GROUP
            total += packed - n_weights * itemsize
    return total


def _digests(folder: str, tokenizer: Tokenizer) -> dict[str, str]:
    own = Path(folder)
    weights = sorted(own.glob("*.safetensors")) or sorted(own.glob("*.bin"))
    names = sorted({*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()})
    return {
        "weights": sha256(weights),
        "configuration": sha256(_there(own, CONFIGURATION_FILES)),
        "chat template": _digest(tokenizer.chat_template),
        "tokenizer": sha256(_there(own, names)),
        "code": sha256(sorted(own.glob("*.py"))),
    }


def _digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()


def _there(folder: Path, names: Collection[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _file_digest(model: str, location: str) -> str | None:
    if model == DEFAULT_MODEL:
        return GGUF_SHA256
    return Path(location).name if model.lower().endswith(".gguf") else None


def _gguf_bits(model: str) -> int | None:
    """Return the width in bits of most weights in the GGUF file of a model; None if it has none."""
    if model == DEFAULT_MODEL:
        kinds = [Path(GGUF_IN_WHEEL).suffixes[-2]]
    elif model.lower().endswith(".gguf"):
        from gguf import GGUFReader

        n_weights: Counter[str] = Counter()
        for tensor in GGUFReader(Path(model).expanduser()).tensors:
            n_weights[tensor.tensor_type.name] += int(tensor.n_elements)
        kinds = [kind for kind, _ in n_weights.most_common(1)]
    else:
        return None
    found = re.search(r"\d+", "".join(kinds))  # Q4_1, IQ4_XS, Q8_0, F16
    return int(found[0]) if found else None
