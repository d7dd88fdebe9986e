"""What a screen is fitted with: the second moment of what goes into a model's head, from texts of the model's own.

Texts are sampled from the model, each behind a token of its vocabulary, so that any model gives its own without data.
The moment is kept in the user's cache folder, by a digest of the head's weights and of how it was made.

Shapes: B rows, H width of what the head takes, V vocabulary.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from eexit.cpu.packed_linear import plain_weight
from eexit.decode.sampling import pick_tokens
from eexit.decode.teacher import teacher_pass
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.output.whole_files import keep

ROWS: Final = 32
TOKENS: Final = 96  # of each row
TOP_P: Final = 0.95  # of what is sampled, so that texts are such as the model is asked for
NAME: Final = "moment"


def fit_screen(decoder: Decoder, size: ScreenSize, folder: Path | None = None) -> Screen:
    """A screen of this model. Raises `UsageError` if its head can't be used so, or the size does not fit it.

    The moment is kept in `folder`, by default the user's.
    """
    path = moment_path(decoder, folder)
    with suppress(OSError, SafetensorError, KeyError):
        return Screen(decoder, size, load_file(path)[NAME].to(decoder.device))
    moment_HH = second_moment(decoder)
    keep(path, save({NAME: moment_HH.cpu()}))
    return Screen(decoder, size, moment_HH)


def moment_path(decoder: Decoder, folder: Path | None = None) -> Path:
    """Where the moment of a model's head is kept in a folder, by default the user's."""
    weights = plain_weight(decoder.head_alone.get_output_embeddings())
    how = f"{ROWS} {TOKENS} {TOP_P} {decoder.n_layers} {weights.dtype} {tuple(weights.shape)}"
    content = hashlib.blake2b(weights.detach().cpu().contiguous().view(torch.uint8).numpy().data, digest_size=16)
    content.update(how.encode())
    return (folder or user_cache_path("eexit") / "screens") / f"{content.hexdigest()}.safetensors"


@torch.inference_mode()
def second_moment(decoder: Decoder) -> Tensor:
    """The mean of h·hᵀ over what goes into the head at every token of texts that the model samples, (H, H), fp32."""
    device, generator = decoder.device, torch.Generator().manual_seed(0)
    tokens = min(TOKENS, decoder.context_of(1) or TOKENS)
    cache, token_B = KVCache(ROWS, tokens), torch.randint(decoder.vocabulary, (ROWS,), generator=generator).to(device)
    moment_HH: Tensor | float = 0.0
    with decoder.attending():
        for position in range(tokens):
            position_B1 = torch.full((ROWS, 1), position, device=device)
            view = decoder.view(cache, position_B1, position + 1)
            streams_B1W, _ = teacher_pass(decoder, [decoder.n_layers - 1], token_B[:, None], view)
            ready_BH = decoder.normed(streams_B1W[:, 0])
            moment_HH = moment_HH + ready_BH.float().T @ ready_BH.float() / (ROWS * tokens)
            u_B = torch.rand(ROWS, generator=generator).to(device)
            token_B = pick_tokens(decoder.head(ready_BH), 1.0, TOP_P, u_B)
    assert isinstance(moment_HH, Tensor)
    return moment_HH
