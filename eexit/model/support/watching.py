"""Observing an unmodified model: the inputs and outputs of its layers and of their attention.

Attention is observed through transformers' attention interface: the model runs with an implementation of ours that
records each call, and computes it with the model's own eager attention. Layers can't tell it from the model's own
implementation by its name, so that they hand it what they hand to that one.

A batch of many different rows is made from a few texts, which the model runs one by one: each of their tokens as a row
of its own, in no regular order. What a layer does with more rows than a text has is seen so.

Shapes: T tokens of one row, S positions it attends to, H heads, G query heads per key head, D head width, W width of
the residual stream, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from eexit.errors import UsageError, first_line
from eexit.model.layer_calls import Handed, named

TOKEN_AXIS: Final = 1
TOKEN_AXIS_OF_HEADS: Final = 2  # in queries, keys and values
WATCHED_NAMES: Final = ("eager", "sdpa")  # a model with another implementation is watched as one with the first


class Watched(str):
    """The name of an implementation, to whoever compares it; whoever looks the implementation up finds `_watched`."""

    __slots__ = ()
    __eq__ = str.__eq__

    def __hash__(self) -> int:
        return hash((Watched, str(self)))


class AttentionReached(Exception):
    """Raised to leave a layer where it calls its attention."""

    def __init__(self, handed: Handed):
        self.handed = handed


class _Watch:
    """What is recorded while a model runs: each layer's calls of its attention, and their outputs."""

    def __init__(self, n_layers: int):
        self.layer = -1
        self.handed: list[list[Handed]] = [[] for _ in range(n_layers)]
        self.attended: list[list[Tensor]] = [[] for _ in range(n_layers)]


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)  # None: layers are left where they call attention


def _watched(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
    """Our implementation of transformers' attention interface that records calls of the model's own attention."""
    handed, watch = Handed(module, query, key, value, attention_mask, options), _watch.get()
    if watch is None:
        raise AttentionReached(handed)
    output = handed.attend()
    watch.handed[watch.layer].append(handed)
    watch.attended[watch.layer].append(output)
    return output, None


for name in map(Watched, WATCHED_NAMES):
    AttentionInterface.register(name, _watched)
    AttentionMaskInterface.register(name, eager_mask)


@dataclass(frozen=True)
class Forward:
    """One forward of the model over some tokens of a row, behind those in its cache. Lists are per layer.

    Streams are where the tokens are; what a layer handed to its attention is where that is.
    """

    token_1T: Tensor
    position_1T: Tensor
    entering_1TW: list[Tensor]  # the residual stream before a layer
    leaving_1TW: list[Tensor]  # and after it
    handed: list[Handed]  # like `attended`, empty if layers compute attention themselves
    attended: list[Tensor]
    logits_1TV: Tensor
    after_layers: list[nn.Module]  # the modules that the stack runs after its last layer
    returns_tuple: bool  # whether layers return a tuple that starts with the residual stream


def configs_of(stack: nn.Module) -> list[Any]:
    """The distinct configurations of a stack's modules, which say which attention implementation they use."""
    return list({id(module.config): module.config for module in stack.modules() if hasattr(module, "config")}.values())


@contextmanager
def watching(configs: Sequence[Any]) -> Iterator[None]:
    """A context in which attention's calls are recorded, or left, as those of the model's own implementation."""
    own = [config._attn_implementation_internal for config in configs]
    with named([Watched(name if name in WATCHED_NAMES else WATCHED_NAMES[0]) for name in own], configs):
        yield


@contextmanager
def leaving_at_attention(configs: Sequence[Any]) -> Iterator[None]:
    """A context in which layers raise `AttentionReached` where they call their attention."""
    before = _watch.set(None)
    try:
        with watching(configs):
            yield
    finally:
        _watch.reset(before)


@torch.inference_mode()
def asks_for_attention(model: PreTrainedModel, configs: Sequence[Any], token_1T: Tensor) -> bool:
    """Whether the layers call transformers' attention interface, rather than compute attention themselves."""
    try:
        with watching(configs):
            model(input_ids=token_1T, use_cache=False)
    except AttentionReached:
        return True
    return False


@torch.inference_mode()
def watch_row(
    model: PreTrainedModel, stack: nn.Module, layers: Sequence[nn.Module], parts: Sequence[Tensor],
    attends_itself: bool,
) -> list[Forward]:  # fmt: skip
    """Run one row through the unmodified model, one part (1, T) of its tokens after the other. Raises `UsageError`.

    Calls of attention are not recorded of layers that compute it themselves.
    """
    cache = DynamicCache()
    return [_watch_forward(model, stack, layers, token_1T, cache, attends_itself) for token_1T in parts]


def _watch_forward(
    model: PreTrainedModel, stack: nn.Module, layers: Sequence[nn.Module], token_1T: Tensor, cache: DynamicCache,
    attends_itself: bool,
) -> Forward:  # fmt: skip
    watch = _Watch(len(layers))
    entering: list[Tensor] = []
    outputs: list[Any] = []
    ran: list[nn.Module] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.layer += 1
        if watch.layer == len(layers):
            raise UsageError("its layers run more than once for a token")
        entering.append((args[0] if args else kwargs["hidden_states"]).to(token_1T.device, copy=True))

    def leave(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        ran.clear()
        outputs.append(output)

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    for child in stack.children():
        if not isinstance(child, nn.ModuleList):
            handles.append(child.register_forward_hook(lambda module, _, __: ran.append(module)))
    start = cache.get_seq_length()
    position_1T = torch.arange(start, start + token_1T.shape[1], device=token_1T.device)[None]
    before = _watch.set(watch)
    try:
        with nullcontext() if attends_itself else watching(configs_of(stack)):
            logits_1TV = model(input_ids=token_1T, cache=cache, use_cache=True).logits
    except (UsageError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a model that can't decode with a cache may raise anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"with transformers' cache of keys and values, its own forward raises {reason}") from error
    finally:
        _watch.reset(before)
        for handle in handles:
            handle.remove()
    if len(outputs) < len(layers):
        raise UsageError(f"only {len(outputs)} of its {len(layers)} layers run for a token")
    returns_tuple = isinstance(outputs[-1], tuple | list)
    leaving = [(output[0] if returns_tuple else output).to(token_1T.device, copy=True) for output in outputs]
    if attends_itself:
        watch.handed, watch.attended = [], []
    for layer, calls in enumerate(watch.handed):
        if len(calls) != 1:
            raise own_attention(layer)
    handed, attended = [calls[0] for calls in watch.handed], [outputs[0] for outputs in watch.attended]
    return Forward(
        token_1T, position_1T, entering, leaving, handed, attended, logits_1TV, list(ran), returns_tuple
    )  # fmt: skip


class OwnAttention(UsageError):
    """A layer computes attention in a way that ours can't replace."""


def own_attention(layer: int) -> OwnAttention:
    return OwnAttention(f"layer {layer} attends by code of its own, not once through transformers' attention interface")


def token_rows(forwards: Sequence[Forward]) -> tuple[Forward, list[int]]:
    """The tokens of forwards as rows of one token each, as if the model had run them so; then the forward of each."""
    forward_of = [index for index, forward in enumerate(forwards) for _ in range(forward.token_1T.shape[1])]
    shuffled = torch.randperm(len(forward_of), generator=torch.Generator().manual_seed(0)).tolist()
    batch = rows_of(_combined(list(map(_tokens_apart, forwards)), lambda parts, _: torch.cat(parts)), shuffled)
    return batch, [forward_of[row] for row in shuffled]


def rows_of(batch: Forward, rows: Sequence[int]) -> Forward:
    """Some rows of a batch, which may be repeated."""
    at = torch.tensor(rows, device=batch.token_1T.device)
    return _combined([batch], lambda parts, _: parts[0][at.to(parts[0].device)])


def _tokens_apart(forward: Forward) -> Forward:
    """A forward's tokens as rows, in their order; of keys and values there are those of the tokens alone."""
    n_tokens = forward.token_1T.shape[1]
    apart = _combined([forward], lambda parts, axis: parts[0].narrow(axis, -n_tokens, n_tokens).transpose(0, axis))
    return replace(apart, handed=[replace(handed, mask=None) for handed in apart.handed])


def _combined(forwards: Sequence[Forward], combine: Callable[[list[Tensor], int], Tensor]) -> Forward:
    """The first forward, with each part that has rows combined from the parts of all, given which axis has tokens."""

    def of_each(items: Sequence[object], names: Sequence[str], axis: int) -> dict[str, Any]:
        return {name: combine([getattr(item, name) for item in items], axis) for name in names}

    def by_layer(name: str) -> Iterator[tuple[Any, ...]]:
        return zip(*(getattr(forward, name) for forward in forwards), strict=True)

    combined: dict[str, Any] = {
        name: [combine(list(parts), TOKEN_AXIS) for parts in by_layer(name)]
        for name in ("entering_1TW", "leaving_1TW", "attended")
    }
    combined["handed"] = [
        replace(calls[0], **of_each(calls, ("query", "key", "value"), TOKEN_AXIS_OF_HEADS))
        for calls in by_layer("handed")
    ]
    return replace(forwards[0], **of_each(forwards, ("token_1T", "position_1T"), TOKEN_AXIS), **combined)
