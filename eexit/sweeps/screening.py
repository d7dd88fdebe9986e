"""What a screen is fitted with: the second moment of what goes into a model's head, from texts of the model's own.

Texts are sampled from the model, each behind a token of its vocabulary, so that any model gives its own without data.
The moment is kept in the user's cache folder, with a checksum, by a digest of the model and of how it was made.

Shapes: B rows, H width of what the head takes, V vocabulary.
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
from eexit.model.layers import Decoder, Inputs, Layer
from eexit.model.quantization import parts_of
from eexit.output.whole_files import keep

ROWS: Final = 32
TOKENS: Final = 96  # of each row
TOP_P: Final = 0.95  # of what is sampled, so that texts are such as the model is asked for
NAME: Final = "moment"
CHECKSUM: Final = "sha256"


def moment_of(decoder: Decoder, folder: Path | None = None) -> Tensor:
    """The second moment of what goes into a model's head, (H, H), fp32; it is made once, and kept in a folder."""
    path = (folder or user_cache_path("eexit") / "screens") / f"{_key(decoder)}.safetensors"
    with suppress(OSError, SafetensorError, ValueError):
        return read_moment(path).to(decoder.device)
    moment_HH = second_moment(decoder)
    keep_moment(path, moment_HH)
    return moment_HH


def keep_moment(path: Path, moment_HH: Tensor) -> None:
    """Keep a moment with its checksum, or do without where that can't be written."""
    moment_HH = moment_HH.cpu().contiguous()
    keep(path, save({NAME: moment_HH}, metadata={CHECKSUM: _digest([moment_HH])}))


def read_moment(path: Path) -> Tensor:
    """Read a moment that was kept. Raises `OSError`, `SafetensorError`, or `ValueError` for a file that is damaged."""
    with safe_open(path, framework="pt") as held:
        moment_HH: Tensor = held.get_tensor(NAME)
        if (held.metadata() or {}).get(CHECKSUM) != _digest([moment_HH]):
            raise ValueError(f"{path} is damaged")
    return moment_HH


def _key(decoder: Decoder) -> str:
    """The digest of all that the moment depends on: weights, configuration, device, packages, and how it is made."""
    versions = [version(name) for name in ("torch", "transformers")]
    held = (getattr(module, "config", None) for module in decoder.model.modules())
    configs = {id(each): each.to_json_string(use_diff=False) for each in held if isinstance(each, PreTrainedConfig)}
    said = list(configs.values())  # modules share them
    how = [ROWS, TOKENS, TOP_P, decoder.context, decoder.device.type, str(decoder.dtype), versions, said]
    return _digest(_weights(decoder), repr(how))


def _weights(decoder: Decoder) -> Iterator[Tensor]:
    """All weights, those of packed layers as they were before."""
    modules = {id(each): each for root in (decoder.head_alone, *decoder.layers) for each in root.modules()}
    for module in modules.values():
        if isinstance(module, PackedLinear):
            yield plain_weight(module)
            if (bias := plain_bias(module)) is not None:
                yield bias
        for whole in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield from parts_of(whole)


def _digest(tensors: Iterable[Tensor], how: str = "") -> str:
    """SHA-256 of the shapes, dtypes and numbers of tensors, and of a text."""
    content = hashlib.sha256(how.encode())
    for tensor in tensors:
        content.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


@torch.inference_mode()
def second_moment(decoder: Decoder) -> Tensor:
    """The mean of h·hᵀ over what goes into the head at every token of texts that the model samples, (H, H), fp32."""
    device, generator = decoder.device, torch.Generator().manual_seed(0)
    tokens = min(TOKENS, decoder.context_of(1) or TOKENS)
    token_B = torch.randint(decoder.vocabulary, (ROWS,), generator=generator).to(device)
    cache = decoder.cache(ROWS, tokens)
    moment_HH: Tensor | float = 0.0
    for position in range(tokens):
        position_B1 = torch.full((ROWS, 1), position, device=device)
        seen_BC = torch.ones(ROWS, position + 1, dtype=torch.bool, device=device)
        ready_BH = decoder.run(Layer.run, Inputs(token_B[:, None], position_B1, seen_BC), cache)[:, -1]
        moment_HH = moment_HH + ready_BH.float().T @ ready_BH.float() / (ROWS * tokens)
        u_B = torch.rand(ROWS, generator=generator).to(device)
        token_B = pick_tokens(decoder.head(ready_BH), 1.0, TOP_P, u_B)
    assert isinstance(moment_HH, Tensor)
    return moment_HH
