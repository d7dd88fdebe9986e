"""What a loaded model is: a digest of its weights, the facts of its configuration, and whether it has changed since."""

import hashlib
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from eexit.messages.errors import UsageError
from eexit.messages.wording import some
from eexit.model.support.refusals import refuse_compiled

# Names of files, of tokens, of what is returned and of how weights are held; none changes what the layers compute.
_ASIDE: Final = (
    "architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "transformers_version",
    "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_llama_config",
)  # fmt: skip

State = tuple[object, ...]


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of the names, shapes, dtypes and numbers of all weights and lasting buffers; tied ones count once."""
    content, names = hashlib.sha256(), dict[int, str]()
    for name, tensor in model.state_dict().items():
        known = names.setdefault(tensor.data_ptr(), name)
        content.update(f"{name} {known} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if known == name and tensor.numel():
            content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def config_facts(model: PreTrainedModel) -> dict[str, Any]:
    """What a model's configuration says of what it computes, where that differs from the family's defaults."""
    found: dict[str, Any] = model.config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in _ASIDE and name[0] != "_"}


def state_of(model: PreTrainedModel) -> State:
    """What is another one as soon as a weight is replaced, written to or moved; it is found without reading them."""
    weights = tuple((weight.data_ptr(), _version(weight)) for weight in model.parameters())
    return model.device, model.dtype, weights


def refuse_unusual(model: PreTrainedModel) -> None:
    """Raises `UsageError` for a model that is compiled, quantised, or not on one device."""
    refuse_compiled(model)
    if getattr(model, "hf_quantizer", None) is not None or getattr(model.config, "quantization_config", None):
        raise UsageError("the model is quantised: load it without quantization_config, with weights as they were")
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise UsageError(
            f"the model is spread over {', '.join(some(devices))}: load it onto one device, without offloading"
        )


def _version(weight: torch.Tensor) -> int:
    """How often it was written to; 0 for one that was made in inference mode, where torch doesn't count."""
    return 0 if weight.is_inference() else weight._version
