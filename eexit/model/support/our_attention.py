"""Our attention beside a layer's own, given queries, keys and values: many rows, in a cache with more room than text.

The numbers are random ones, the model's own, and random ones with large scores, where a soft-cap matters. Our attention
computes whole texts, one token of each of many rows, some of these, and several tokens of a row in one pass; by
compiled kernels, if there are any, and by torch's operators.

Shapes: N texts, B rows (a token of a text each), T tokens, S positions, H key heads, G query heads per key head, D head
width.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import causal_mask_function, eager_mask, sliding_window_causal_mask_function

from eexit.cpu.kernels import attention_left_to_torch, may_compile
from eexit.model.cache import KVCache
from eexit.model.layer_calls import Handed
from eexit.model.layerwise import Layerwise, options_of
from eexit.model.support.same_numbers import ATTENTION_TOLERANCE, norm, require_same
from eexit.model.support.watching import Forward
from eexit.model.views import CacheView, TokensView

N_ROWS: Final = 40  # more than a branch of some code may ask for
TEXT_TOKENS: Final = 75  # of a text of random numbers; 64 is where code may do otherwise
ROOM: Final = 100  # positions in the cache, more than any text needs
SMALL_WINDOW_TOKENS: Final = 5
LARGE_SCORE: Final = 40.0  # soft-caps of attention are 50 or less, and change such scores much
LARGE_TOKENS: Final = 16  # of a text with such scores


@dataclass(frozen=True)
class HandedText:
    """What a layer might hand to its attention for the tokens of a text."""

    query: Tensor  # (1, H·G, T, D)
    key: Tensor  # (1, H, T, D)
    value: Tensor
    tolerance: float


class AttentionCheck:
    """Compares each layer's attention for some texts of a model; `rows` are prompts, with one token behind each."""

    def __init__(self, decoder: Layerwise, rows: Sequence[Sequence[Forward]]):
        self.decoder, self.rows = decoder, rows
        self.random: dict[tuple[object, ...], tuple[HandedText, HandedText]] = {}  # most layers have the same shapes

    def __call__(self, layer: int) -> None:
        """Raises `UsageError`, if our attention is not the layer's own."""
        handed = self.rows[0][0].handed[layer]
        for dtype in dict.fromkeys((torch.float32, self.decoder.dtype)):
            shapes = [(part.shape[1], part.shape[3]) for part in (handed.query, handed.key, handed.value)]
            key = (dtype, _scaling(handed), handed.query.device, *shapes)
            if key not in self.random:
                self.random[key] = (
                    _random_text(handed, dtype, TEXT_TOKENS),
                    _random_text(handed, dtype, LARGE_TOKENS, LARGE_SCORE),
                )
            texts = [*self.random[key], *(_own_text(layer, row, dtype) for row in self.rows)]
            _Attention(self.decoder, layer, handed, texts).check()


def _random_text(handed: Handed, dtype: torch.dtype, n_tokens: int, score: float = 0) -> HandedText:
    """A text of random numbers; what queries and keys have in common makes scores be around `score`."""
    generator = torch.Generator().manual_seed(int(score))
    in_common = (score / _scaling(handed) / handed.query.shape[-1]) ** 0.5
    query, key, value = (
        torch.randn(1, part.shape[1], n_tokens, part.shape[3], generator=generator)
        for part in (handed.query, handed.key, handed.value)
    )
    query, key, value = (part.to(handed.query.device, dtype) for part in (query + in_common, key + in_common, value))
    return HandedText(query, key, value, _tolerance(handed, query, key, dtype) if score else ATTENTION_TOLERANCE[dtype])


def _own_text(layer: int, row: Sequence[Forward], dtype: torch.dtype) -> HandedText:
    """The queries, keys and values that the model itself passes to a layer's attention."""
    query, key, value = (
        torch.cat([getattr(step.handed[layer], part)[:, :, -step.token_1T.shape[1] :] for step in row], 2).to(dtype)
        for part in ("query", "key", "value")
    )
    return HandedText(query, key, value, _tolerance(row[0].handed[layer], query, key, dtype))


def _tolerance(handed: Handed, query: Tensor, key: Tensor, dtype: torch.dtype) -> float:
    """With what rounding may change in scores that large, before a soft-cap."""
    largest_score = _scaling(handed) * float(norm(query).max() * norm(key).max())
    return ATTENTION_TOLERANCE[dtype] + torch.finfo(dtype).eps * largest_score


def _scaling(handed: Handed) -> float:
    scaling = handed.options.get("scaling")
    return float(handed.query.shape[-1] ** -0.5 if scaling is None else scaling)


class _Attention:
    """A layer's attention, as the engine uses it, to the numbers of texts; and the model's own."""

    def __init__(self, decoder: Layerwise, layer: int, handed: Handed, texts: Sequence[HandedText]):
        window = decoder.windows[layer]
        self.window = None if window is None else min(window, SMALL_WINDOW_TOKENS)
        self.decoder, self.layer, self.handed, self.texts = decoder, layer, handed, texts
        self.expected = [self._model_attention(text) for text in texts]
        self.length = max(text.query.shape[2] for text in texts)
        self.query_NSHD = self._padded([text.query.transpose(1, 2) for text in texts])
        self.key_NSHD = self._padded([text.key.transpose(1, 2) for text in texts])
        self.value_NSHD = self._padded([text.value.transpose(1, 2) for text in texts])
        self.expected_NSHD = self._padded(self.expected)
        self.tolerance_N = self._tensor([text.tolerance for text in texts])

    def _model_attention(self, text: HandedText) -> Tensor:
        """The output of the model's own attention for all tokens of a text."""
        of_window = None if self.window is None else sliding_window_causal_mask_function(self.window)
        n_tokens, allowed = text.query.shape[2], of_window or causal_mask_function
        dtype, device = text.query.dtype, text.query.device
        mask = eager_mask(1, n_tokens, n_tokens, mask_function=allowed, dtype=dtype, device=device)
        return replace(self.handed, query=text.query, key=text.key, value=text.value, mask=mask).attend()

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(part, (0, 0, 0, 0, 0, self.length - part.shape[1])) for part in parts])

    def check(self) -> None:
        for text, expected in zip(self.texts, self.expected, strict=True):
            self._whole_text(text, expected)
        text_B, position_B = self._tokens()
        cache = self._before(text_B)
        query = self.texts[0].query
        for way in (nullcontext, attention_left_to_torch)[: 1 + may_compile(query.device, query.dtype)]:
            with way():
                self._single_tokens(cache, text_B, position_B)
                self._tokens_by_themselves(cache, text_B, position_B)

    def _tokens(self) -> tuple[Tensor, Tensor]:
        """The text and the position of each row's token, which is not its text's last; the order is not regular."""
        order_B = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0))
        text_B, before_last_N = (
            order_B % len(self.texts),
            torch.tensor([len(text.query[0, 0]) - 2 for text in self.texts]),
        )
        position_B = before_last_N[text_B] - order_B // len(self.texts) % (before_last_N[text_B] + 1)
        return self._tensor(text_B), self._tensor(position_B)

    def _whole_text(self, text: HandedText, expected: Tensor) -> None:
        n_tokens = text.query.shape[2]
        view = CacheView(KVCache(1, ROOM), self._tensor([range(n_tokens)]), n_tokens)
        self._compare(view, text.query, text.key, text.value, expected, text.tolerance)

    def _before(self, text_B: Tensor) -> KVCache:
        """A cache with the keys and values of each row's text."""
        cache = KVCache(N_ROWS, ROOM)
        view = CacheView(cache, self._tensor(range(self.length)).expand(N_ROWS, -1), self.length)
        view.update(self.key_NSHD[text_B].transpose(1, 2), self.value_NSHD[text_B].transpose(1, 2), self.layer)
        return cache

    def _forget(self, cache: KVCache, position_B: Tensor) -> None:
        """Forget two tokens of each row, at these positions and next; later ones must not be attended to."""
        row_B = self._tensor(range(N_ROWS))
        for part in cache.held(self.layer):
            part[row_B, :, position_B] = part[row_B, :, position_B + 1] = 0

    def _single_tokens(self, cache: KVCache, text_B: Tensor, position_B: Tensor) -> None:
        """A batch with one token of each row, and then one token more of some rows."""
        self._forget(cache, position_B)
        position_B1 = position_B[:, None]
        self._compare_tokens(CacheView(cache, position_B1, self.length), text_B, position_B)
        some = self._tensor([17, 2, 0, 33, 5])
        view = CacheView(cache, position_B1 + 1, self.length).among(some)
        self._compare_tokens(view, text_B[some], position_B[some] + 1)

    def _tokens_by_themselves(self, cache: KVCache, text_B: Tensor, position_B: Tensor) -> None:
        """Two tokens of every row in one pass, the rows' later ones first, and then some of them."""
        self._forget(cache, position_B)
        texts, positions = text_B.repeat(2), torch.cat([position_B + 1, position_B])
        view = TokensView(cache, self._tensor(range(N_ROWS)).repeat(2), positions[:, None], self.length)
        self._compare_tokens(view, texts, positions)
        some = self._tensor([41, 1, N_ROWS + 30, 30, 0])
        self._compare_tokens(view.among(some), texts[some], positions[some])

    def _compare_tokens(self, view: CacheView, text_B: Tensor, position_B: Tensor) -> None:
        at, tolerance_B11 = (text_B, position_B), self.tolerance_N[text_B, None, None]
        numbers = self.query_NSHD, self.key_NSHD, self.value_NSHD
        query, key, value = (part[at][:, :, None] for part in numbers)
        self._compare(view, query, key, value, self.expected_NSHD[at][:, None], tolerance_B11)

    def _compare(
        self, view: CacheView, query: Tensor, key: Tensor, value: Tensor, expected: Tensor, tolerance: float | Tensor
    ) -> None:
        keys, values = view.update(key, value, self.layer)
        options = options_of(self.layer, query.shape[-1], self.window, **self.handed.options)
        ours = view.attend(query, keys, values, options)
        require_same(f"our attention in layer {self.layer}", ours, expected, tolerance)

    def _tensor(self, numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, device=self.handed.query.device)
