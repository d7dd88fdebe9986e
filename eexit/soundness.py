"""The check, when a model is loaded, that running it layer by layer computes what the model itself computes.

The layers are the model's own. What can go wrong is how they are called, and the attention that we compute for them.
Three things are compared with the unmodified model, each separately, so that rounding can't hide a mistake:

1. The queries, keys and values that layers pass to their attention, and the positions that the model's mask allows: for
   prompts, for tokens behind them, and for single tokens around every length in the configuration. The model gets the
   rows one by one, we get them as a batch.
2. Our attention to random queries, keys and values, for rows of different lengths in a cache with unused room.
3. What a layer adds to the residual stream, given the attention output of the unmodified model; and the readout.

Shapes: B rows, T tokens, S positions, W width of the residual stream, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, eager_mask, sliding_window_causal_mask_function

from eexit.cache import KVCache
from eexit.cache_view import CacheView
from eexit.config import UsageError
from eexit.far_tokens import TokenAt
from eexit.watching import Forward, Handed, OwnAttention

if TYPE_CHECKING:
    from eexit.anatomy import Decoder, LayerPass

# Relative tolerances. Inputs of attention and what layers add come from the same operations on the same numbers, though
# perhaps in matrix products of other sizes. Our attention sums in another order.
SAME_OPERATIONS: Final = {torch.float32: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.03}
ATTENTION_TOLERANCE: Final = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
PROMPT_LENGTHS: Final = (9, 4, 14)  # tokens
CACHE_POSITIONS: Final = 40  # more than any row here needs
SMALL_WINDOW_TOKENS: Final = 5


class _Reached(Exception):
    """Raised to leave a layer where it calls our attention."""


class _Replay(CacheView):
    """Records what layers pass to their attention, and returns the model's output; without one, leaves the layer."""

    def __init__(self, position_BT: Tensor, attended: Sequence[Tensor] | None):
        reach = int(position_BT.max()) + 1
        super().__init__(KVCache(len(position_BT), reach), position_BT, reach)
        self.attended, self.asked_for_length = attended, False
        self.handed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def of(cls, forwards: Sequence[Forward]) -> "_Replay":
        attended = [torch.cat(parts) for parts in zip(*(forward.attended for forward in forwards), strict=True)]
        return cls(torch.cat([forward.position_1T for forward in forwards]), attended)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        self.asked_for_length = True
        return super().get_seq_length(layer_idx)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        self.layer = layer_idx
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        self.handed[self.layer] = (query, key, value)
        if self.attended is None:
            raise _Reached
        return self.attended[self.layer]


@torch.inference_mode()
def check(decoder: "Decoder", rows: Sequence[Sequence[Forward]], far: Sequence[TokenAt]) -> None:
    """Raises `UsageError`, saying what differs. `rows` are prompts of different lengths, each with one token behind it.

    `far` are single tokens at far positions: what the unmodified model passes to its attention there.
    """
    for prompt, _ in rows:
        _check_pass(decoder, [prompt], "a prompt")
    _check_pass(decoder, [step for _, step in rows], "a token behind a prompt")
    _check_far_positions(decoder, far)
    prompt = rows[0][0]
    for layer, handed in enumerate(prompt.handed):
        for dtype in dict.fromkeys((torch.float32, decoder.dtype)):
            _check_attention(decoder, layer, handed, dtype)
    with decoder.attending():
        logits_TV = decoder.read(prompt.leaving_1TW[-1][0])
    require_same("the readout", logits_TV, prompt.logits_1TV[0])


def _check_pass(decoder: "Decoder", forwards: Sequence[Forward], where: str) -> None:
    """Compare a batched pass with what the model did row by row; then the same pass for some of the rows, and each."""
    view = _Replay.of(forwards)
    with decoder.attending(), _explained(view):
        embedded_BTW, layer_pass = decoder.begin(torch.cat([forward.token_1T for forward in forwards]), view)
        embedded_by_it_BTW = torch.cat([forward.entering_1TW[0] for forward in forwards])
        require_same_embedding(decoder, where, embedded_BTW, embedded_by_it_BTW)
        _check_layers(view, layer_pass, forwards, where)
        for rows in ([1, 0, 1], [0], [1]) if len(forwards) > 1 else ():
            some = [forwards[row] for row in rows]
            among = _Replay.of(some)
            _check_layers(among, layer_pass.among(torch.tensor(rows, device=decoder.device), among), some, where)


def _check_layers(view: _Replay, layer_pass: "LayerPass", forwards: Sequence[Forward], where: str) -> None:
    """Compare every layer, given the residual stream that it got in the unmodified model.

    In half precision, what layers add is compared for single rows only: products of other sizes round differently,
    which may make a mixture of experts choose other experts.
    """
    for layer in range(len(layer_pass.layers)):
        entering_BTW = torch.cat([forward.entering_1TW[layer] for forward in forwards])
        leaving_BTW = torch.cat([forward.leaving_1TW[layer] for forward in forwards])
        ours_BTW = layer_pass.block(layer, entering_BTW)
        _require_handed(view, layer, [forward.handed[layer] for forward in forwards], where)
        if len(forwards) == 1 or ours_BTW.dtype == torch.float32:
            require_same_added(f"what layer {layer} adds for {where}", entering_BTW, ours_BTW, leaving_BTW)


@contextmanager
def _explained(view: _Replay) -> Iterator[None]:
    """A context that adds the reason to an error, if positions differ and the reason is known."""
    try:
        yield
    except UsageError as error:
        if not view.asked_for_length:
            raise
        why = "it takes positions from the length of the cache, where rows have lengths of their own"
        raise UsageError(f"{error}; {why}") from error


def _check_far_positions(decoder: "Decoder", far: Sequence[TokenAt]) -> None:
    """Compare a batch of single tokens at far positions, given the embeddings that each had alone in the model."""
    view = _Replay(torch.tensor([[token.position] for token in far], device=decoder.device), None)
    where = f"positions {', '.join(str(token.position) for token in far)}"
    with decoder.attending(), _explained(view):
        embedded_B1W, layer_pass = decoder.begin(torch.cat([token.token_11 for token in far]), view)
        its_B1W = torch.cat([token.embedded_11W for token in far])
        require_same_embedding(decoder, where, embedded_B1W, its_B1W)
        for layer in range(decoder.n_layers):
            with suppress(_Reached):
                layer_pass.block(layer, its_B1W)
            _require_handed(view, layer, [token.handed[layer] for token in far], where)
    for token in far:
        _require_same_masks(decoder, token)


def _require_handed(view: _Replay, layer: int, theirs: Sequence[Handed], where: str) -> None:
    if view.layer != layer:
        raise UsageError(f"layer {layer} keeps no keys and values per position")
    if layer not in view.handed:
        raise OwnAttention(f"layer {layer} attends by code of its own, not through transformers' attention interface")
    n_tokens = view.position_BT.shape[1]
    for name, ours in zip(("query", "key", "value"), view.handed[layer], strict=True):
        its = torch.cat([getattr(handed, name)[:, :, -n_tokens:] for handed in theirs])
        require_same(f"the {name} in layer {layer} for {where}", ours, its)


def _require_same_masks(decoder: "Decoder", token: TokenAt) -> None:
    """The model's masks allow exactly the positions that our attention attends to."""
    position_11 = torch.tensor([[token.position]], device=decoder.device)
    view = CacheView(KVCache(1, token.position + 1), position_11, token.position + 1)
    same: set[tuple[int, int | None]] = set()  # most layers use the same mask
    for layer, (handed, window) in enumerate(zip(token.handed, decoder.windows, strict=True)):
        if (id(handed.mask), window) not in same and not torch.equal(handed.allowed(), view.mask(window)):
            raise UsageError(f"layer {layer} masks other positions than later ones and those before a sliding window")
        same.add((id(handed.mask), window))


def _check_attention(decoder: "Decoder", layer: int, handed: Handed, dtype: torch.dtype) -> None:
    """Compare attention as the engine uses it: single prompts, a batch of single tokens, some rows of the batch."""
    window = decoder.windows[layer]
    window = None if window is None else min(window, SMALL_WINDOW_TOKENS)
    generator = torch.Generator().manual_seed(layer)
    shapes = [handed.query.shape, handed.key.shape, handed.value.shape]
    rows = [
        [
            torch.randn(1, shape[1], length + 2, shape[3], generator=generator).to(decoder.device, dtype)
            for shape in shapes
        ]
        for length in PROMPT_LENGTHS
    ]
    cache = KVCache(len(rows), CACHE_POSITIONS)

    def attend(view: CacheView, slots: Sequence[int], start_B: Sequence[int], n_tokens: int) -> None:
        parts = zip(
            *(
                [part[:, :, start : start + n_tokens] for part in rows[slot]]
                for slot, start in zip(slots, start_B, strict=True)
            ),
            strict=True,
        )
        query, key, value = (torch.cat(part) for part in parts)
        all_keys, all_values = view.update(key, value, layer)
        call = replace(handed, query=query, key=all_keys, value=all_values)
        ours = decoder.answer(call, view, window)
        for slot, start, mine in zip(slots, start_B, ours, strict=True):
            its = _their_attention(handed, rows[slot], start, n_tokens, window)
            require_same(f"our attention in layer {layer}", mine[None], its, ATTENTION_TOLERANCE[dtype])

    for slot, length in enumerate(PROMPT_LENGTHS):
        prompt_cache = KVCache(1, length)
        attend(CacheView(prompt_cache, torch.arange(length, device=decoder.device)[None], length), [slot], [0], length)
        cache.load(slice(slot, slot + 1), prompt_cache, [layer], length)
    position_B1 = torch.tensor(PROMPT_LENGTHS, device=decoder.device)[:, None]
    slots, reach = list(range(len(rows))), max(PROMPT_LENGTHS) + 1
    attend(CacheView(cache, position_B1, reach), slots, PROMPT_LENGTHS, 1)
    some = [2, 0]
    view = CacheView(cache, position_B1 + 1, reach + 1).among(torch.tensor(some, device=decoder.device))
    attend(view, some, [PROMPT_LENGTHS[slot] + 1 for slot in some], 1)


def _their_attention(handed: Handed, row: Sequence[Tensor], start: int, n_tokens: int, window: int | None) -> Tensor:
    """The output of the model's own attention for these tokens of a row, behind the earlier ones."""
    query, key, value = row
    end = start + n_tokens
    mask_function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    mask = eager_mask(1, n_tokens, end, start, mask_function=mask_function, dtype=query.dtype, device=query.device)
    end_of_query = query[:, :, start:end]
    return replace(handed, query=end_of_query, key=key[:, :, :end], value=value[:, :, :end], mask=mask).attend()


def require_same_embedding(decoder: "Decoder", where: str, ours: Tensor, its: Tensor) -> None:
    try:
        require_same(f"the embedding of {where}", ours, its)
    except UsageError as error:
        if decoder.takes_positions:
            raise
        raise UsageError("it takes no position_ids, and rows of different length stand side by side") from error


def require_same_added(what: str, entering: Tensor, ours: Tensor, its: Tensor) -> None:
    """Compare what was added to the residual stream, apart from what its magnitude makes it lose by rounding."""
    tolerance, rounding = SAME_OPERATIONS[its.dtype], torch.finfo(its.dtype).eps * its.float()
    require_same(what, ours.float() - entering.float(), its.float() - entering.float(), tolerance, rounding)


def require_same(
    what: str, ours: Tensor, its: Tensor, tolerance: float | None = None, rounding: Tensor | None = None
) -> None:
    """Compare vectors along the last dimension, each separately: heads or residual streams of single tokens.

    `rounding` is the error that the numbers may have had before. Raises `UsageError` if they differ by more.
    """
    tolerance = SAME_OPERATIONS[its.dtype] if tolerance is None else tolerance
    if ours.shape != its.shape:
        raise UsageError(f"{what} has the shape {tuple(ours.shape)}, the model's own {tuple(its.shape)}")
    apart, size = _norm(ours.float() - its.float()), _norm(its)
    if rounding is not None:
        apart = apart - _norm(rounding)
    if not (apart <= tolerance * size).all():
        raise UsageError(f"{what} is {(apart / size).max():.1%} off the model's own")


def _norm(numbers: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(numbers.float(), dim=-1)
    return norm
