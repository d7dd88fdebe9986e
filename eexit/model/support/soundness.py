"""The check, when a model is loaded, that running it layer by layer computes what the model itself computes.

The layers are the model's own. What can go wrong is how they are called, and the attention that we compute for them.
Three things are compared with the unmodified model, each separately, so that rounding can't hide a mistake:

1. What layers hand to their attention (queries, keys, values, scaling, soft-cap and sinks), and the positions that the
   model's mask allows: for prompts, for their tokens as rows of a batch, for tokens behind them, and for single tokens
   around every length in the configuration. The model gets the rows one by one, and hands these to its own
   implementation of attention. We get them as batches of many and of few rows, in a cache with more room than text.
2. Our attention to queries, keys and values: in `eexit.model.support.our_attention`.
3. What a layer adds to the residual stream, given the attention output of the unmodified model; and the readout.

Shapes: B rows, T tokens, S positions, W width of the residual stream, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import torch
from torch import Tensor

from eexit.cpu.kernels import AttentionOptions
from eexit.errors import UsageError
from eexit.model.cache import KVCache
from eexit.model.layer_calls import Handed
from eexit.model.layerwise import LayerPass, Layerwise, options_of
from eexit.model.support.far_tokens import TokenAt
from eexit.model.support.our_attention import AttentionCheck
from eexit.model.support.same_numbers import SAME_OPERATIONS, added_apart, require_same, require_same_embedding
from eexit.model.support.watching import Forward, OwnAttention, rows_of, token_rows
from eexit.model.views import CacheView

MORE_ROOM: Final = 256  # positions that keys have room for, beyond those of the text
SOME_ROWS: Final = ([9, 3, 17, 0, 12, 5, 20, 1, 2], [2, 0], [1])  # of a batch
N_NUDGES: Final = 8  # of a row, by which it is found how far rounding moves it
BEYOND_ROUNDING: Final = 4.0  # times as far as that


class _Reached(Exception):
    """Raised to leave a layer where it calls our attention."""


class _Replay(CacheView):
    """Records what layers hand to their attention, and returns the model's output; without one, leaves the layer.

    Keys and values have more room than text, as in a batch with longer rows; what is there is not looked at.
    """

    def __init__(self, position_BT: Tensor, attended: Sequence[Tensor] | None):
        reach = int(position_BT.max()) + 1
        super().__init__(KVCache(len(position_BT), reach), position_BT, reach)
        self.attended, self.asked_for_length = attended, False
        self.handed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.options: dict[int, AttentionOptions] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        self.asked_for_length = True
        return super().get_seq_length(layer_idx)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        self.layer = layer_idx
        return _with_room(key), _with_room(value)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        n_tokens = self.position_BT.shape[1]
        self.handed[self.layer] = (query, key[:, :, :n_tokens], value[:, :, :n_tokens])
        self.options[self.layer] = options
        if self.attended is None:
            raise _Reached
        return self.attended[self.layer]


def _with_room(part: Tensor) -> Tensor:
    """Keys or values (B, H, T, D), and as many more; of a single token, they are the same without a copy."""
    n_rows, n_heads, n_tokens, width = part.shape
    if n_tokens == 1:
        return part.expand(-1, -1, MORE_ROOM, -1)
    return torch.cat([part, part.new_zeros(n_rows, n_heads, MORE_ROOM, width)], 2)


@torch.inference_mode()
def check(decoder: Layerwise, rows: Sequence[Sequence[Forward]], far: Sequence[TokenAt]) -> None:
    """Raises `UsageError`, saying what differs. `rows` are prompts of different lengths, each with one token behind it.

    `far` are single tokens at far positions: what the unmodified model passes to its attention there.
    """
    for prompt, _ in rows:
        _check_pass(decoder, prompt, "a prompt")
    steps, prompts = [step for _, step in rows], [prompt for prompt, _ in rows]
    _check_pass(decoder, token_rows([*steps, *prompts])[0], "single tokens")
    _check_far_positions(decoder, far)
    check_attention = AttentionCheck(decoder, rows)
    for layer in range(decoder.n_layers):
        check_attention(layer)
    with decoder.attending():
        for prompt, _ in rows:
            logits_TV = decoder.read(prompt.leaving_1TW[-1][0])
            require_same("the readout", logits_TV, prompt.logits_1TV[0])


def _check_pass(decoder: Layerwise, batch: Forward, where: str) -> None:
    """Compare a batched pass with what the model did row by row; then the same pass for some of its rows."""
    view = _Replay(batch.position_1T, batch.attended)
    with decoder.attending(), _explained(view):
        embedded_BTW, layer_pass = decoder.begin(batch.token_1T, view)
        require_same_embedding(decoder, where, embedded_BTW, batch.entering_1TW[0])
        _check_layers(layer_pass, batch, where)
        for rows in SOME_ROWS if len(batch.token_1T) > 1 else ():
            among, some = _among(layer_pass, batch, rows)
            _check_layers(among, some, where)


def _among(layer_pass: LayerPass, batch: Forward, rows: Sequence[int]) -> tuple[LayerPass, Forward]:
    some = rows_of(batch, rows)
    view = _Replay(some.position_1T, some.attended)
    return layer_pass.among(torch.tensor(rows, device=some.token_1T.device), view), some


def _check_layers(layer_pass: LayerPass, batch: Forward, where: str) -> None:
    """Compare every layer, given the residual stream that it got in the unmodified model.

    Products of other sizes round differently, which may make a mixture of experts choose other experts: a row of a
    batch may be off by some times what its own result is when the residual stream is nudged by rounding.
    """
    for layer in range(layer_pass.decoder.n_layers):
        entering_BTW, leaving_BTW = batch.entering_1TW[layer], batch.leaving_1TW[layer]
        ours_BTW = layer_pass.block(layer, entering_BTW).to(entering_BTW.device)
        _require_handed(layer_pass, layer, [batch.handed[layer]], where)
        apart_B = added_apart(entering_BTW, ours_BTW, leaving_BTW).amax(1)
        tolerance = SAME_OPERATIONS[leaving_BTW.dtype]
        for row in (~(apart_B <= tolerance)).nonzero()[:, 0].tolist():
            by_rounding = _moved_by_rounding(layer_pass, layer, batch, row) if len(apart_B) > 1 else 0
            if not apart_B[row] <= BEYOND_ROUNDING * by_rounding:
                raise UsageError(f"what layer {layer} adds for {where} is {apart_B[row]:.1%} off the model's own")


def _moved_by_rounding(layer_pass: LayerPass, layer: int, batch: Forward, row: int) -> float:
    """How far what a layer adds for a row moves, relative to it, when the residual stream is nudged by rounding."""
    among, copies = _among(layer_pass, batch, [row] * N_NUDGES)
    entering_BTW = copies.entering_1TW[layer]
    noise = torch.rand(entering_BTW.shape, generator=torch.Generator().manual_seed(row)).to(entering_BTW) * 2 - 1
    noise[0] = 0
    nudged_BTW = entering_BTW * (1 + torch.finfo(entering_BTW.dtype).eps * noise)
    ours_BTW = among.block(layer, nudged_BTW).to(nudged_BTW.device)
    moved_BTW = entering_BTW + (ours_BTW.float() - nudged_BTW.float())
    return float(added_apart(entering_BTW, moved_BTW, ours_BTW[:1].expand_as(ours_BTW)).max())


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
            _require_handed(layer_pass, layer, [token.handed[layer] for token in far], where)
    for token in far:
        _require_same_masks(decoder, token)


def _require_handed(layer_pass: LayerPass, layer: int, handed_alone: Sequence[Handed], where: str) -> None:
    view = layer_pass.on(layer).view
    assert isinstance(view, _Replay)
    if view.layer != layer:
        raise UsageError(f"layer {layer} keeps no keys and values per position")
    if layer not in view.handed:
        raise OwnAttention(f"layer {layer} attends by code of its own, not through transformers' attention interface")
    for handed in handed_alone:
        _require_same_options(view.options[layer], layer, handed)
    n_tokens = view.position_BT.shape[1]
    for name, ours in zip(("query", "key", "value"), view.handed[layer], strict=True):
        expected = torch.cat([getattr(handed, name)[:, :, -n_tokens:] for handed in handed_alone])
        require_same(f"the {name} in layer {layer} for {where}", ours, expected)


def _require_same_options(ours: AttentionOptions, layer: int, handed: Handed) -> None:
    expected = options_of(layer, handed.query.shape[-1], ours.window, **handed.options)
    for name, option, own in (
        ("scaling", ours.scaling, expected.scaling),
        ("soft-cap", ours.softcap, expected.softcap),
        ("set of sinks", ours.sinks, expected.sinks),
    ):
        if not _same(option, own):
            raise UsageError(f"layer {layer} hands our attention another {name} than the model's own")


def _same(option: float | Tensor | None, own: float | Tensor | None) -> bool:
    if isinstance(option, Tensor) and isinstance(own, Tensor):
        return torch.equal(option, own)
    return option is own or (option is not None and own is not None and bool(option == own))


def _require_same_masks(decoder: Layerwise, token: TokenAt) -> None:
    """The model's masks allow exactly the positions that our attention attends to."""
    position_11 = torch.tensor([[token.position]], device=decoder.device)
    view = CacheView(KVCache(1, token.position + 1), position_11, token.position + 1)
    same: set[tuple[int, int | None]] = set()  # most layers use the same mask
    for layer, (handed, window) in enumerate(zip(token.handed, decoder.windows, strict=True)):
        mask = decoder.where(layer, view).mask(window)
        if (id(handed.mask), window) not in same and not torch.equal(handed.allowed(), mask):
            raise UsageError(f"layer {layer} masks other positions than later ones and those before a sliding window")
        same.add((id(handed.mask), window))
