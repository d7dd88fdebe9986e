"""The second moment of a model's head input, to which a screen is fitted, from texts of the model itself.

Texts are sampled from the model, each starting with a token of its vocabulary, so that no data are needed. The user's
cache folder stores the moment with a checksum, by a digest of the model and of the sampling.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedConfig

from eexit.cpu.packed_linear import PackedLinear, plain_bias, plain_weight
from eexit.decode.sampling import pick_tokens
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer
from eexit.model.quantization import parts_of
from eexit.output.atomic_files import write_cache_file

ROWS: Final = 32
TOKENS: Final = 96  # of each sequence
TOP_P: Final = 0.95  # in sampling, so that texts resemble the model's usual outputs
NAME: Final = "moment"
CHECKSUM: Final = "sha256"


def moment_of(decoder: Decoder, folder: Path | None = None) -> Tensor:
    """Return the second moment of a model's head input, (H, H), fp32. It is computed once and cached in a folder."""
    path = (folder or user_cache_path("eexit") / "screens") / f"{_key(decoder)}.safetensors"
    with suppress(OSError, SafetensorError, ValueError):
        return read_moment(path).to(decoder.device)
    moment_FF = second_moment(decoder)
    keep_moment(path, moment_FF)
    return moment_FF


def keep_moment(path: Path, moment_FF: Tensor) -> None:
    """Write a moment with its checksum; a file that can't be written is skipped."""
    moment_FF = moment_FF.cpu().contiguous()
    write_cache_file(path, save({NAME: moment_FF}, metadata={CHECKSUM: _digest([moment_FF])}))


def read_moment(path: Path) -> Tensor:
    """Read a cached moment. Raise `OSError`, `SafetensorError`, or `ValueError` for a damaged file."""
    with safe_open(path, framework="pt") as held:
        moment_FF: Tensor = held.get_tensor(NAME)
        if (held.metadata() or {}).get(CHECKSUM) != _digest([moment_FF]):
            raise ValueError(f"{path} is damaged")
    return moment_FF


def _key(decoder: Decoder) -> str:
    """Return the digest of all inputs of the moment: weights, configuration, device, packages, and sampling."""
    versions = [version(name) for name in ("torch", "transformers")]
    held = (getattr(module, "config", None) for module in decoder.model.modules())
    configs = {id(each): each.to_json_string(use_diff=False) for each in held if isinstance(each, PreTrainedConfig)}
    said = list(configs.values())  # modules share configurations
    how = [ROWS, TOKENS, TOP_P, decoder.context, decoder.device.type, str(decoder.dtype), versions, said]
    return _digest(_weights(decoder), repr(how))


def _weights(decoder: Decoder) -> Iterator[Tensor]:
    modules = {id(each): each for root in (decoder.head_alone, *decoder.layers) for each in root.modules()}
    for module in modules.values():
        if isinstance(module, PackedLinear):
            yield plain_weight(module)
            if (bias := plain_bias(module)) is not None:
                yield bias
        for whole in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield from parts_of(whole)


def _digest(tensors: Iterable[Tensor], how: str = "") -> str:
    """Return the SHA-256 of the shapes, dtypes and values of tensors, and of the text `how`."""
    content = hashlib.sha256(how.encode())
    for tensor in tensors:
        content.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


@torch.inference_mode()
def second_moment(decoder: Decoder) -> Tensor:
    """Return the mean of h·hᵀ over the head input at every token of sampled texts, (H, H), fp32."""
    device, generator = decoder.device, torch.Generator().manual_seed(0)
    tokens = min(TOKENS, decoder.context_of(1) or TOKENS)
    token_B = torch.randint(decoder.vocabulary, (ROWS,), generator=generator).to(device)
    cache = decoder.cache(ROWS, tokens)
    moment_FF: Tensor | float = 0.0
    for position in range(tokens):
        position_B1 = torch.full((ROWS, 1), position, device=device)
        attention_mask_BC = torch.ones(ROWS, position + 1, dtype=torch.bool, device=device)
        head_input_BF = decoder.run(
            VisitedLayer.run, ForwardInputs(token_B[:, None], position_B1, attention_mask_BC), cache
        )[:, -1]
        moment_FF = moment_FF + head_input_BF.float().T @ head_input_BF.float() / (ROWS * tokens)
        u_B = torch.rand(ROWS, generator=generator).to(device)
        token_B = pick_tokens(decoder.lm_head(head_input_BF), 1.0, TOP_P, u_B)
    assert isinstance(moment_FF, Tensor)
    return moment_FF
