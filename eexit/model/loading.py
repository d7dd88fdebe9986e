"""Loading of a model and its tokenizer; their errors are a `UsageError` in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from eexit.errors import UsageError, first_line
from eexit.model.chat import Tokenizer
from eexit.model.checkpoint import quietly, refuse_cut_off, refuse_misfit, refuse_not_finite
from eexit.model.generation_config import values_in
from eexit.model.quantization import INT4, method_of, quantizing, refuse_left_whole, refuse_quantize
from eexit.model.sources import DEFAULT_MODEL, hub_is_reachable, locate, no_tokenizer
from eexit.model.support import naming, refuse_offloaded, refuse_unsupported
from eexit.output.text import did_you_mean


class ModelOptions(Protocol):
    """The part of a sweep's configuration that names a model and how it runs."""

    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def quantize(self) -> str | None: ...


def load_model_and_tokenizer(config: ModelOptions, device: str = "auto") -> tuple[PreTrainedModel, Tokenizer]:
    """Return a sweep's model, in evaluation mode on its device, and its tokenizer.

    The device is auto, cpu, cuda or mps or, for all visible GPUs, balanced.
    """
    location, chosen_device = locate(config.model, config.revision), choose_device(device)
    dtype = choose_dtype(config.dtype, chosen_device, config.quantize)
    is_quantized = method_of(read_config(config, location))
    tokenizer = load_tokenizer(config)
    refuse_cut_off(config.model, location)
    with loading(config):
        options = _fetching(config, location)
        if config.quantize is not None:
            options["quantization_config"] = quantizing(config.quantize, chosen_device, dtype)
        if device == "balanced":
            options["device_map"] = device
        elif (config.quantize or is_quantized) and chosen_device.type != "cpu":
            options["device_map"] = {"": chosen_device}  # quantised weights don't all move later
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    model, info = loaded
    refuse_misfit(config.model, info)
    if config.quantize is not None:
        refuse_left_whole(config.quantize, model)
    with naming(f"model {config.model}"):
        refuse_offloaded(model)
    if model.device.type != chosen_device.type:
        model.to(chosen_device)
    refuse_not_finite(config.model, model)
    return model.eval(), tokenizer


@contextmanager
def loading(config: ModelOptions) -> Iterator[None]:
    """Keep transformers quiet, and turn its errors into a `UsageError` that names the model."""
    try:
        with quietly():
            yield
    except UsageError:
        raise
    except Exception as error:  # a checkpoint, or the code that comes with it, may make transformers raise anything
        revision, reason, way_out = f" at revision {config.revision}" if config.revision else "", first_line(error), ""
        if not isinstance(error, OSError | ValueError | RuntimeError):  # other errors say little without their type
            reason = f"{type(error).__name__}: {reason}"
        if "above report" in reason:  # a report that `quietly` suppresses
            reason = "its weights don't have the form that its config.json describes"
        if isinstance(error, OSError):
            names = f"give {DEFAULT_MODEL}, a Hugging Face name, a local folder or a .gguf file"
            way_out = f" ({did_you_mean(config.model, [DEFAULT_MODEL], names)})"
        raise UsageError(f"model {config.model}{revision} can't be loaded: {reason}{way_out}") from error


def choose_device(device: str) -> torch.device:
    """Return a device by its name; `auto` is CUDA if there is such a device, else MPS, else the CPU."""
    device = "cuda" if device == "balanced" else device
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(kind for kind in is_there if is_there[kind])
    if not is_there.get(device, True):
        raise UsageError(f"--device {device} is not there, or this PyTorch was built without it: leave --device out")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device, quantize: str | None = None) -> torch.dtype:
    """Return a dtype by its name; `auto` is bfloat16 if the hardware multiplies it natively, else float32.

    With weights quantised to int4, it is always bfloat16, for which torch's kernels are written: with float32, a CPU
    takes 13 times as long for one token, and 40 times for 35.
    """
    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    return torch.bfloat16 if quantize == INT4 or multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return True if the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and has_instructions


def eos_token_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the model's EOS tokens or, if it names none, the tokenizer's."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = tokenizer.eos_token_id if named is None else named
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def load_tokenizer(config: ModelOptions) -> Tokenizer:
    location = locate(config.model, config.revision)
    try:
        with quietly():
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(location, **_fetching(config, location))
    except Exception as error:
        # If there is no tokenizer file, transformers lists everything that could have been one.
        raise no_tokenizer(config.model, "" if "from one of:" in str(error) else f" ({first_line(error)})") from error
    # Of some families, transformers makes one that knows control tokens alone, so that all prompts are empty.
    if {*tokenizer.get_vocab().values()} <= {*tokenizer.all_special_ids}:
        raise no_tokenizer(config.model)
    return tokenizer


def read_config(config: ModelOptions, location: str) -> Any:
    """Return the model's own configuration, of a model that is supported."""
    with loading(config):
        found = AutoConfig.from_pretrained(location, **_fetching(config, location))
    if not isinstance(found.architectures or [], list):
        raise UsageError(
            f"model {config.model}: architectures in config.json must be a list, got {found.architectures}"
        )
    with naming(f"model {config.model}"):
        refuse_unsupported(found)
    refuse_quantize(config.quantize, found)
    return found


def read_generation_config(config: ModelOptions, location: str, model_config: Any) -> dict[str, Any]:
    """Return the values of the model's generation_config that change texts."""
    with loading(config):
        return values_in(location, model_config, **_fetching(config, location))


def _fetching(config: ModelOptions, location: str) -> dict[str, Any]:
    """Return arguments of `from_pretrained`: trust in the model's code and, for a name on the hub, its revision."""
    trust = {"trust_remote_code": config.trust_remote_code}
    if Path(location).is_dir():
        return trust
    return {**trust, "revision": config.revision or "main", "local_files_only": not hub_is_reachable()}
