"""The check, at loading, of layers that compute attention themselves; they get keys as in a left-padded batch.

Their attention is the model's own code, so that its inputs and outputs are compared with those of the unmodified model:
every argument of a layer, at positions around each length in the configuration; and what a layer adds to the residual
stream, for prompts, for tokens behind prompts of different lengths (in one batch, in a part of it, in a cache with
unused room), for all tokens of the prompts in one pass, and for a token at those far positions, behind random keys and
values, beside one near the start.

Shapes: B rows, N tokens that each stand by themselves, T tokens of a row, W width of the residual stream.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from eexit.errors import UsageError
from eexit.model.cache import KVCache
from eexit.model.layer_calls import each_part
from eexit.model.layerwise import LayerPass, Layerwise
from eexit.model.support.far_tokens import FilledCache
from eexit.model.support.same_numbers import (
    SAME_OPERATIONS,
    require_same,
    require_same_added,
    require_same_embedding,
    require_shape,
)
from eexit.model.support.watching import Forward, rows_of, token_rows
from eexit.model.views import TokensView

TOKENS_BEHIND: Final = 3  # a prompt
CACHE_POSITIONS: Final = 80  # more than any prompt here needs
FAR_POSITION: Final = 300  # at which layers are run, whatever lengths the configuration has
FARTHEST_RUN_POSITION: Final = 1 << 12  # beyond it, arguments are compared and layers not run


@torch.inference_mode()
def check_self_attending(decoder: Layerwise, rows: Sequence[Sequence[Forward]], far: Sequence[int]) -> None:
    """Raises `UsageError`, saying what differs. `rows` are prompts of different lengths, with one token behind each."""
    cache, other_cache = (KVCache(len(rows), CACHE_POSITIONS) for _ in range(2))
    for slot, (prompt, _) in enumerate(rows):
        _check_prompt(decoder, prompt, (cache, other_cache), slot)
    _check_tokens_behind(decoder, [step for _, step in rows], cache)
    _check_tokens_apart(decoder, rows, other_cache)
    runs_farther = decoder.context is None or decoder.context > FAR_POSITION
    for position in {*far, FAR_POSITION} if runs_farther else far:
        _check_arguments(decoder, [1, position])
        if position <= FARTHEST_RUN_POSITION:
            _check_far_token(decoder, position, cache)
    prompt = rows[0][0]
    require_same("the readout", decoder.read(prompt.leaving_1TW[-1][0]), prompt.logits_1TV[0])


def _check_prompt(decoder: Layerwise, prompt: Forward, caches: Sequence[KVCache], slot: int) -> None:
    """Check a prompt that is followed by tokens, which it must not attend to; its keys are loaded into the caches."""
    n_tokens = prompt.token_1T.shape[1]
    length = n_tokens + TOKENS_BEHIND
    prompt_cache, position_1T = KVCache(1, length), torch.arange(length, device=decoder.device)[None]
    token_1T = torch.cat([prompt.token_1T, prompt.token_1T[:, :TOKENS_BEHIND]], 1)
    embedded_BTW, layer_pass = decoder.begin(token_1T, decoder.view(prompt_cache, position_1T, length))
    require_same_embedding(decoder, "a prompt", embedded_BTW[:, :n_tokens], prompt.entering_1TW[0])
    _check_layers(decoder, layer_pass, [prompt], "a prompt", embedded_BTW[:, n_tokens:])
    for cache in caches:
        cache.load(slice(slot, slot + 1), prompt_cache, range(decoder.n_layers), n_tokens)


def _check_tokens_behind(decoder: Layerwise, steps: Sequence[Forward], cache: KVCache) -> None:
    position_B1 = torch.cat([step.position_1T for step in steps])
    view = decoder.view(cache, position_B1, int(position_B1.max()) + 1)
    embedded_B1W, layer_pass = decoder.begin(torch.cat([step.token_1T for step in steps]), view)
    expected_B1W = torch.cat([step.entering_1TW[0] for step in steps])
    require_same_embedding(decoder, "a token behind a prompt", embedded_B1W, expected_B1W)
    _check_layers(decoder, layer_pass, steps, "a token behind a prompt")
    for some in ([1, 0], [1]):
        rows = torch.tensor(some, device=decoder.device)
        among = layer_pass.among(rows, view.among(rows))
        _check_layers(decoder, among, [steps[row] for row in some], "a token of some rows")


def _check_tokens_apart(decoder: Layerwise, rows: Sequence[Sequence[Forward]], cache: KVCache) -> None:
    """Check all tokens of every row in one pass, in which each stands by itself; then some of these tokens."""
    tokens, forward_of = token_rows([forward for row in rows for forward in row])
    slot_N = torch.tensor([forward // 2 for forward in forward_of], device=decoder.device)
    view = TokensView(cache, slot_N, tokens.position_1T, int(tokens.position_1T.max()) + 1, decoder.attends_itself)
    embedded_N1W, layer_pass = decoder.begin(tokens.token_1T, view)
    require_same_embedding(decoder, "tokens of several rows", embedded_N1W, tokens.entering_1TW[0])
    _check_layers(decoder, layer_pass, [tokens], "several tokens of a row")
    some = torch.tensor([4, 0, 3, 1, 17, 20], device=decoder.device)
    among = layer_pass.among(some, view.among(some))
    _check_layers(decoder, among, [rows_of(tokens, some.tolist())], "some of a row's tokens")


def _check_layers(
    decoder: Layerwise,
    layer_pass: LayerPass,
    forwards: Sequence[Forward],
    where: str,
    behind_BTW: Tensor | None = None,
) -> None:
    for layer in range(decoder.n_layers):
        entering_BTW = torch.cat([forward.entering_1TW[layer] for forward in forwards])
        leaving_BTW = torch.cat([forward.leaving_1TW[layer] for forward in forwards])
        both_BTW = entering_BTW if behind_BTW is None else torch.cat([entering_BTW, behind_BTW], 1)
        ours_BTW = layer_pass.block(layer, both_BTW)[:, : entering_BTW.shape[1]].to(decoder.device)
        if layer_pass.on(layer).view.layer != layer:
            raise UsageError(f"layer {layer} keeps no keys and values per position")
        require_same_added(f"what layer {layer} adds for {where}", entering_BTW, ours_BTW, leaving_BTW)


def _check_arguments(decoder: Layerwise, positions: Sequence[int]) -> None:
    """Layers are called for a batch of tokens at these positions with the arguments that each token has alone."""
    position_B1 = torch.tensor(positions, device=decoder.device)[:, None]
    view = decoder.view(KVCache(len(positions), max(positions) + 1), position_B1, max(positions) + 1)
    token_B1 = torch.ones_like(position_B1)
    embedded_B1W, layer_pass = decoder.begin(token_B1, view)
    for row, position in enumerate(positions):
        alone_11W, alone_calls = decoder.embed(input_ids=token_B1[:1], cache=FilledCache(position), use_cache=True)
        where = f"position {position}, beside {max(positions)}"
        require_same_embedding(decoder, where, embedded_B1W[row : row + 1], alone_11W.to(decoder.device))
        seen: set[tuple[int, int]] = set()  # most layers get the same tensors
        calls = zip(layer_pass.calls, alone_calls, decoder.axes, strict=True)
        for layer, of_layer in enumerate(calls):
            for ours, expected, axis in _parts(*of_layer):
                if isinstance(ours, Tensor) and (id(ours), id(expected)) not in seen:
                    seen.add((id(ours), id(expected)))
                    of_row = axis.select(ours, torch.tensor([row], device=ours.device)) if axis else ours
                    _require_same_argument(f"what layer {layer} is given for {where}", of_row, expected, position + 1)


class _HeldCache(FilledCache):
    """A filled cache that really holds keys and values, of one layer at a time."""

    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], 2), torch.cat([self.values, value_states], 2)


def _check_far_token(decoder: Layerwise, position: int, like: KVCache) -> None:
    """Layers add the same for a token at this position and for one near the start, in a batch of both and alone."""
    position_B1, reach = torch.tensor([[1], [position]], device=decoder.device), position + 1
    token_B1, rows = torch.ones_like(position_B1), torch.arange(2, device=decoder.device)
    embedded_B1W, layer_pass = decoder.begin(token_B1, decoder.view(KVCache(2, reach), position_B1, reach))
    generator, alone = torch.Generator().manual_seed(position), []
    for each in (1, position):
        held = _HeldCache(each)
        alone.append((each, held, *decoder.embed(input_ids=token_B1[:1], cache=held, use_cache=True)))
    for layer in range(decoder.n_layers):
        view = decoder.view(KVCache(2, reach), position_B1, reach)
        keys, values = decoder.where(layer, view).cache.layer(layer, *like.part_of(layer).held(layer))
        for part in (keys, values):
            part.copy_(torch.randn(part.shape, generator=generator))
        expected = []
        for row, (each, held, alone_11W, alone_calls) in enumerate(alone):
            held.keys, held.values = (part[row : row + 1, :, :each].clone() for part in (keys, values))
            entering_11W, call = decoder.where(layer, (alone_11W, alone_calls[layer]))
            output = decoder.layers[layer](entering_11W, *call.args, **call.kwargs)
            expected.append(output[0] if isinstance(output, tuple | list) else output)
        ours_B1W = layer_pass.among(rows, view).block(layer, embedded_B1W)
        what = f"what layer {layer} adds at position {position}, beside another,"
        entering_B1W = decoder.where(layer, torch.cat([alone_11W for _, _, alone_11W, _ in alone]))
        require_same_added(what, entering_B1W, ours_B1W, torch.cat(expected))


def _parts(*arguments: Any) -> list[tuple[Any, ...]]:
    """The parts of arguments that are nested alike, side by side."""
    found: list[tuple[Any, ...]] = []
    each_part(lambda *parts: found.append(parts), *arguments)
    return found


def _require_same_argument(what: str, ours: Tensor, expected: Tensor | None, n_keys: int) -> None:
    """Ours may be padded on the left of `n_keys`; the model passes no mask at all if nothing is masked."""
    if expected is None:
        ours = ours[..., -n_keys:]
        expected = torch.ones_like(ours) if ours.dtype == torch.bool else torch.zeros_like(ours)
    if expected.shape[-1] == n_keys:
        ours = ours[..., -n_keys:]
    require_shape(what, ours, expected)
    tolerance = SAME_OPERATIONS[expected.dtype] if expected.is_floating_point() else 0
    if not torch.allclose(ours.cpu().double(), expected.cpu().double(), tolerance, tolerance):
        raise UsageError(f"{what} is not what the model itself gives it")
