"""The check, when a model is loaded, that running it layer by layer computes what the model itself computes.

The layers are the model's own. What can go wrong is how they are called, and the attention that we compute for them.
Three things are compared with the unmodified model, each separately, so that rounding can't hide a mistake:

1. The queries, keys and values that layers pass to their attention, and the positions that the model's mask allows: for
   prompts, for tokens behind them, and for single tokens around every length in the configuration. The model gets the
   rows one by one, we get them as a batch.
2. Our attention to queries, keys and values (random ones, the model's own, and random ones with large scores, where a
   soft-cap matters), for rows of different lengths in a cache with unused room: prompts, one token of each row, and
   several tokens of a row in one pass; by compiled kernels, if there are any, and by torch's operators.
3. What a layer adds to the residual stream, given the attention output of the unmodified model; and the readout.

Shapes: B rows, T tokens, S positions, W width of the residual stream, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, eager_mask, sliding_window_causal_mask_function

from eexit.cpu.kernels import attention_left_to_torch, may_compile
from eexit.messages.errors import UsageError
from eexit.model.cache import KVCache
from eexit.model.layerwise import LayerPass, Layerwise
from eexit.model.support.far_tokens import TokenAt
from eexit.model.support.watching import Forward, Handed, OwnAttention
from eexit.model.views import CacheView, TokensView

# Relative tolerances. Inputs of attention and what layers add come from the same operations on the same numbers, though
# perhaps in matrix products of other sizes. Our attention sums in another order.
SAME_OPERATIONS: Final = {torch.float32: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.03}
ATTENTION_TOLERANCE: Final = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
PROMPT_LENGTHS: Final = (9, 4, 14)  # tokens
TOKENS_BEHIND: Final = 2  # a prompt
CACHE_POSITIONS: Final = 40  # more than any row here needs
SMALL_WINDOW_TOKENS: Final = 5
LARGE_SCORE: Final = 40.0  # soft-caps of attention are 50 or less, and change such scores much


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
def check(decoder: Layerwise, rows: Sequence[Sequence[Forward]], far: Sequence[TokenAt]) -> None:
    """Raises `UsageError`, saying what differs. `rows` are prompts of different lengths, each with one token behind it.

    `far` are single tokens at far positions: what the unmodified model passes to its attention there.
    """
    for prompt, _ in rows:
        _check_pass(decoder, [prompt], "a prompt")
    _check_pass(decoder, [step for _, step in rows], "a token behind a prompt")
    _check_far_positions(decoder, far)
    for layer in range(decoder.n_layers):
        _check_attention(decoder, layer, rows)
    prompt = rows[0][0]
    with decoder.attending():
        logits_TV = decoder.read(prompt.leaving_1TW[-1][0])
    require_same("the readout", logits_TV, prompt.logits_1TV[0])


def _check_pass(decoder: Layerwise, forwards: Sequence[Forward], where: str) -> None:
    """Compare a batched pass with what the model did row by row; then the same pass for its rows in another order."""
    view = _Replay.of(forwards)
    with decoder.attending(), _explained(view):
        embedded_BTW, layer_pass = decoder.begin(torch.cat([forward.token_1T for forward in forwards]), view)
        embedded_by_it_BTW = torch.cat([forward.entering_1TW[0] for forward in forwards])
        require_same_embedding(decoder, where, embedded_BTW, embedded_by_it_BTW)
        _check_layers(view, layer_pass, forwards, where)
        for rows in ([1, 2, 0], [2, 0], [1]) if len(forwards) > 1 else ():
            some = [forwards[row] for row in rows]
            among = _Replay.of(some)
            _check_layers(among, layer_pass.among(torch.tensor(rows, device=decoder.device), among), some, where)


def _check_layers(view: _Replay, layer_pass: LayerPass, forwards: Sequence[Forward], where: str) -> None:
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


def _check_far_positions(decoder: Layerwise, far: Sequence[TokenAt]) -> None:
    """Compare a batch of single tokens at far positions, given the embeddings that each had alone in the model."""
    view = _Replay(torch.tensor([[token.position] for token in far], device=decoder.device), None)
    where = f"positions {', '.join(str(token.position) for token in far)}"
    with decoder.attending(), _explained(view):
        embedded_B1W, layer_pass = decoder.begin(torch.cat([token.token_11 for token in far]), view)
        alone_B1W = torch.cat([token.embedded_11W for token in far])
        require_same_embedding(decoder, where, embedded_B1W, alone_B1W)
        for layer in range(decoder.n_layers):
            with suppress(_Reached):
                layer_pass.block(layer, alone_B1W)
            _require_handed(view, layer, [token.handed[layer] for token in far], where)
    for token in far:
        _require_same_masks(decoder, token)


def _require_handed(view: _Replay, layer: int, handed_alone: Sequence[Handed], where: str) -> None:
    if view.layer != layer:
        raise UsageError(f"layer {layer} keeps no keys and values per position")
    if layer not in view.handed:
        raise OwnAttention(f"layer {layer} attends by code of its own, not through transformers' attention interface")
    n_tokens = view.position_BT.shape[1]
    for name, ours in zip(("query", "key", "value"), view.handed[layer], strict=True):
        expected = torch.cat([getattr(handed, name)[:, :, -n_tokens:] for handed in handed_alone])
        require_same(f"the {name} in layer {layer} for {where}", ours, expected)


def _require_same_masks(decoder: Layerwise, token: TokenAt) -> None:
    """The model's masks allow exactly the positions that our attention attends to."""
    position_11 = torch.tensor([[token.position]], device=decoder.device)
    view = CacheView(KVCache(1, token.position + 1), position_11, token.position + 1)
    same: set[tuple[int, int | None]] = set()  # most layers use the same mask
    for layer, (handed, window) in enumerate(zip(token.handed, decoder.windows, strict=True)):
        if (id(handed.mask), window) not in same and not torch.equal(handed.allowed(), view.mask(window)):
            raise UsageError(f"layer {layer} masks other positions than later ones and those before a sliding window")
        same.add((id(handed.mask), window))


def _check_attention(decoder: Layerwise, layer: int, rows: Sequence[Sequence[Forward]]) -> None:
    """Compare attention to random numbers, to the model's own, and to random ones whose scores a soft-cap changes much.

    The latter two are given what rounding may change in scores that large.
    """
    handed = rows[0][0].handed[layer]
    for dtype in dict.fromkeys((torch.float32, decoder.dtype)):
        tolerance, rounding = ATTENTION_TOLERANCE[dtype], torch.finfo(dtype).eps
        _Attention(decoder, layer, handed, _random_rows(handed, layer, dtype)).check(tolerance)
        for numbers in (_own_rows(layer, rows, dtype), _random_rows(handed, layer, dtype, LARGE_SCORE)):
            attention = _Attention(decoder, layer, handed, numbers)
            attention.check(tolerance + rounding * attention.largest_score())


def _random_rows(handed: Handed, seed: int, dtype: torch.dtype, score: float = 0) -> list[list[Tensor]]:
    """Queries, keys and values of some rows; what they have in common makes scores be around `score`."""
    generator = torch.Generator().manual_seed(seed)
    in_common = (score / _scaling(handed) / handed.query.shape[-1]) ** 0.5
    rows = []
    for length in PROMPT_LENGTHS:
        query, key, value = (
            torch.randn(1, part.shape[1], length + TOKENS_BEHIND, part.shape[3], generator=generator)
            for part in (handed.query, handed.key, handed.value)
        )
        rows.append([part.to(handed.query.device, dtype) for part in (query + in_common, key + in_common, value)])
    return rows


def _own_rows(layer: int, rows: Sequence[Sequence[Forward]], dtype: torch.dtype) -> list[list[Tensor]]:
    """The queries, keys and values that the model itself passes to a layer's attention."""
    return [
        [
            torch.cat([getattr(step.handed[layer], part)[:, :, -step.token_1T.shape[1] :] for step in row], 2).to(dtype)
            for part in ("query", "key", "value")
        ]
        for row in rows
    ]


def _scaling(handed: Handed) -> float:
    scaling = handed.options.get("scaling")
    return float(handed.query.shape[-1] ** -0.5 if scaling is None else scaling)


class _Attention:
    """A layer's attention, as the engine uses it, to given queries, keys and values of rows; and the model's own."""

    def __init__(self, decoder: Layerwise, layer: int, handed: Handed, rows: Sequence[Sequence[Tensor]]):
        window = decoder.windows[layer]
        self.window = None if window is None else min(window, SMALL_WINDOW_TOKENS)
        self.decoder, self.layer, self.handed, self.rows = decoder, layer, handed, rows
        self.lengths = [row[0].shape[2] - TOKENS_BEHIND for row in rows]  # of prompts
        self.expected = [self._model_attention(row) for row in rows]

    def _model_attention(self, row: Sequence[Tensor]) -> Tensor:
        """The output of the model's own attention for all tokens of a row."""
        query, key, value = row
        of_window = None if self.window is None else sliding_window_causal_mask_function(self.window)
        n_tokens, allowed = query.shape[2], of_window or causal_mask_function
        mask = eager_mask(1, n_tokens, n_tokens, mask_function=allowed, dtype=query.dtype, device=query.device)
        return replace(self.handed, query=query, key=key, value=value, mask=mask).attend()

    def largest_score(self) -> float:
        """What no score exceeds, before a soft-cap."""
        query, key = (max(float(_norm(row[part]).max()) for row in self.rows) for part in (0, 1))
        return _scaling(self.handed) * query * key

    def check(self, tolerance: float) -> None:
        """Compare prompts, and then the tokens behind them: by compiled kernels, if there are any, and by torch's."""
        self.tolerance = tolerance
        prompts = [self._prompt(slot, length) for slot, length in enumerate(self.lengths)]
        query = self.rows[0][0]
        for way in (nullcontext, attention_left_to_torch)[: 1 + may_compile(query.device, query.dtype)]:
            with way():
                self._single_tokens(self._behind(prompts))
                self._tokens_by_themselves(self._behind(prompts))

    def _prompt(self, slot: int, length: int) -> KVCache:
        """A prompt by itself; returns its keys and values."""
        cache = KVCache(1, length)
        self._compare(CacheView(cache, self._tensor([range(length)]), length), [slot], [0], length)
        return cache

    def _behind(self, prompts: Sequence[KVCache]) -> KVCache:
        """A cache with unused room behind all prompts."""
        cache = KVCache(len(prompts), CACHE_POSITIONS)
        for slot, (prompt, length) in enumerate(zip(prompts, self.lengths, strict=True)):
            cache.load(slice(slot, slot + 1), prompt, [self.layer], length)
        return cache

    def _single_tokens(self, cache: KVCache) -> None:
        """A batch with one token of each row, and then one token more of some rows."""
        position_B1, reach = self._tensor(self.lengths)[:, None], max(self.lengths) + 1
        self._compare(CacheView(cache, position_B1, reach), range(len(self.rows)), self.lengths, 1)
        some = [2, 0]
        view = CacheView(cache, position_B1 + 1, reach + 1).among(self._tensor(some))
        self._compare(view, some, [self.lengths[slot] + 1 for slot in some], 1)

    def _tokens_by_themselves(self, cache: KVCache) -> None:
        """All tokens behind the prompts in one pass, a row's later ones first, and then some of them."""
        slots = [*range(len(self.rows))] * TOKENS_BEHIND
        positions = [length + step for step in reversed(range(TOKENS_BEHIND)) for length in self.lengths]
        view = TokensView(cache, self._tensor(slots), self._tensor(positions)[:, None], max(positions) + 1)
        self._compare(view, slots, positions, 1)
        some = [4, 0, 3, 1]
        among = view.among(self._tensor(some))
        self._compare(among, [slots[token] for token in some], [positions[token] for token in some], 1)

    def _compare(self, view: CacheView, slots: Sequence[int], start_B: Sequence[int], n_tokens: int) -> None:
        """A pass over some tokens of these rows, each row's from its start on."""
        at = [(slot, slice(start, start + n_tokens)) for slot, start in zip(slots, start_B, strict=True)]
        query, key, value = (torch.cat([self.rows[slot][part][:, :, span] for slot, span in at]) for part in range(3))
        keys, values = view.update(key, value, self.layer)
        ours = self.decoder.answer(replace(self.handed, query=query, key=keys, value=values), view, self.window)
        expected = torch.cat([self.expected[slot][:, span] for slot, span in at])
        require_same(f"our attention in layer {self.layer}", ours, expected, self.tolerance)

    def _tensor(self, numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, device=self.decoder.device)


def require_same_embedding(decoder: Layerwise, where: str, ours: Tensor, expected: Tensor) -> None:
    try:
        require_same(f"the embedding of {where}", ours, expected)
    except UsageError as error:
        if decoder.takes_positions:
            raise
        raise UsageError("it takes no position_ids, and rows of different length stand side by side") from error


def require_same_added(what: str, entering: Tensor, ours: Tensor, expected: Tensor) -> None:
    """Compare what was added to the residual stream, apart from what its magnitude makes it lose by rounding."""
    tolerance, rounding = SAME_OPERATIONS[expected.dtype], torch.finfo(expected.dtype).eps * expected.float()
    require_same(what, ours.float() - entering.float(), expected.float() - entering.float(), tolerance, rounding)


def require_same(
    what: str, ours: Tensor, expected: Tensor, tolerance: float | None = None, rounding: Tensor | None = None
) -> None:
    """Compare vectors along the last dimension, each separately: heads or residual streams of single tokens.

    `rounding` is the error that the numbers may have had before. Raises `UsageError` if they differ by more.
    """
    tolerance = SAME_OPERATIONS[expected.dtype] if tolerance is None else tolerance
    if ours.shape != expected.shape:
        raise UsageError(f"{what} has the shape {tuple(ours.shape)}, the model's own {tuple(expected.shape)}")
    apart, size = _norm(ours.float() - expected.float()), _norm(expected)
    if rounding is not None:
        apart = apart - _norm(rounding)
    if not (apart <= tolerance * size).all():
        raise UsageError(f"{what} is {(apart / size).max():.1%} off the model's own")


def _norm(numbers: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(numbers.float(), dim=-1)
    return norm
