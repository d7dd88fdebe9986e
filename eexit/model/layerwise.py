"""A model whose layers are run one at a time: its embeddings, its layers in a pass, our attention, and its readout.

How a transformers model is taken apart into this, and checked, is in `eexit.model.decoder`.

Shapes: B rows, T tokens, W width of the residual stream, H width of what the head takes, V vocabulary.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from eexit.cpu.kernels import AttentionOptions
from eexit.errors import UsageError
from eexit.model.cache import KVCache
from eexit.model.layer_calls import ATTENTION, CallsFor, LayerCall, embed_apart, named
from eexit.model.views import CacheView, KeysWritten

# Arguments that layers pass to their attention, and that change nothing in what it computes here:
WITHOUT_EFFECT: Final = frozenset({
    "dropout",  # only in training
    "is_causal", "sliding_window",  # the model's masks say the same, and ours are compared with them
    "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",  # where packed texts begin
    "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "labels",  # what is returned
})  # fmt: skip

_running: ContextVar["LayerPass"] = ContextVar("_running")  # not every layer passes its arguments on to attention


def options_of(
    layer: int, width: int, window: int | None, *,
    scaling: float | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **others: object,
) -> AttentionOptions:  # fmt: skip
    """What a layer hands to its attention beside queries and keys of this width; `s_aux` are attention sinks.

    Raises `UsageError` for other arguments than those that have no effect, unless they are None.
    """
    given = {name for name, value in others.items() if value is not None}
    if unknown := sorted(given - WITHOUT_EFFECT):
        raise UsageError(f"layer {layer} gives its attention {', '.join(unknown)}, which ours does not take")
    return AttentionOptions(width**-0.5 if scaling is None else scaling, window, softcap, s_aux)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **handed: Any
) -> tuple[Tensor, None]:
    """Our implementation of transformers' attention interface, for the running pass. Raises `UsageError`."""
    running = _running.get()
    layer = running.view.layer
    options = options_of(layer, query.shape[-1], running.decoder.windows[layer], **handed)
    return running.view.attend(query, key, value, options), None


AttentionInterface.register(ATTENTION, _attention)


def graft(root: nn.Module, path: str, replacement: object) -> Any:
    """A copy of `root` that shares all its weights, with the module at `path` replaced."""
    shell = copy.copy(root)
    head, _, rest = path.partition(".")
    child = graft(getattr(root, head), rest, replacement) if rest else replacement
    object.__setattr__(shell, head, child)
    return shell


class StandIn:
    """Takes the place of a module: calls of it are calls of this function, and all else is the module's own."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]):
        self.module, self.call = module, call

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.call(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


@dataclass(frozen=True)
class KeysAlone:
    """A layer that makes no more than its keys and values.

    `projections` are the paths of the two linear modules of which one makes its keys and the other its values, before
    norms and rotary angles; None where there are no two such modules.
    """

    layer: nn.Module
    projections: tuple[str, str] | None = None

    def __call__(self, hidden_BTW: Tensor, *args: object, **kwargs: object) -> Any:
        return self.layer(hidden_BTW, *args, **kwargs)

    @property
    def own_projections(self) -> tuple[nn.Module, nn.Module]:
        """Of layers that have two such modules."""
        assert self.projections
        key, value = (self.layer.get_submodule(path) for path in self.projections)
        return key, value

    def projecting(self, *projections: Callable[[Tensor], Tensor]) -> "KeysAlone":
        """The layer with these in place of the two modules."""
        assert self.projections
        layer = self.layer
        for path, project in zip(self.projections, projections, strict=True):
            layer = graft(layer, path, project)
        return KeysAlone(layer, self.projections)


class LayerPass:
    """A pass of some tokens through the layers, one layer at a time; `view` is the cache that it reads and writes."""

    def __init__(self, decoder: "Layerwise", view: CacheView, calls: Sequence[LayerCall]):
        self.decoder, self.view, self.calls = decoder, view, calls

    def among(self, rows: Tensor, view: CacheView) -> "LayerPass":
        """The pass over some of its rows alone, with a view for those."""
        return LayerPass(self.decoder, view, CallsFor(self.calls, self.decoder.axes, self.view, rows, view))

    def block(self, layer: int, hidden_BTW: Tensor) -> Tensor:
        """Run one layer: writes its keys and values, and returns the residual stream after it, (B, T, W), there."""
        call = self.calls[layer]
        with self.answering():
            output: Any = self.decoder.layers[layer](hidden_BTW, *call.args, **call.kwargs)
        hidden_after_BTW: Tensor = output[0] if isinstance(output, tuple | list) else output
        return hidden_after_BTW

    def on(self, layer: int) -> "LayerPass":
        """The pass as a layer sees it, on its device."""
        return self

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A context in which our attention uses the cache of this pass."""
        before = _running.set(self)
        try:
            yield
        finally:
            _running.reset(before)

    def write_keys(
        self, layer: int, hidden_BTW: Tensor, projections: Sequence[Callable[[Tensor], Tensor]] = ()
    ) -> None:
        """Write one layer's keys and values for this residual stream, without running the rest of the layer.

        Queries are not computed either, unless one matrix makes them together with keys or values. `projections` may
        take the place of the layer's own to keys and to values, if these are modules of their own.
        """
        call, alone = self.calls[layer], self.decoder.for_keys[layer]
        if projections:
            alone = alone.projecting(*projections)
        with self.view.keys_only(), suppress(KeysWritten):
            alone(hidden_BTW, *call.args, **call.kwargs)


class Layerwise:
    """A causal language model as embeddings, layers and a readout."""

    n_layers: int
    width: int  # of the residual stream
    vocabulary: int
    context: int | None  # positions; None without a limit
    switch: int | None  # the length at which rotary angles switch
    device: torch.device
    dtype: torch.dtype
    layers: list[nn.Module]
    for_keys: Sequence[KeysAlone]  # layers that make no more than keys and values
    windows: list[int | None]  # tokens that a layer attends to, the own one included
    configs: Any  # whose attention implementation is set while layers run
    attends_itself: bool  # whether layers compute attention by code of their own
    takes_positions: bool
    after_layers: Sequence[nn.Module]
    projections: Sequence[nn.Module]  # those of them that are no norm
    head_alone: Any
    axes: list[LayerCall]  # of the layers' arguments: along which of them rows are laid out

    _calls: list[tuple[Tensor, LayerCall]]
    _embedder: Any

    def device_of(self, layer: int) -> torch.device:
        """Where a layer runs."""
        return self.device

    def where(self, layer: int, given: Any) -> Any:
        """Tensors and views, in whatever they are nested, where the layer runs."""
        return given

    def view(self, cache: KVCache, position_BT: Tensor, reach: int) -> CacheView:
        """A view of a cache for one pass, padded on the left if these layers need that."""
        return CacheView(cache, position_BT, reach, left_padded=self.attends_itself)

    def context_of(self, n_prompt: int) -> int | None:
        """How many tokens a row may have, given those of its prompt; None without a limit.

        If rotary angles switch at a length, a row that begins before the switch ends there.
        """
        return self.switch if self.switch is not None and n_prompt <= self.switch else self.context

    def attending(self) -> AbstractContextManager[None]:
        """A context in which the layers use our attention, unless they compute it themselves."""
        return nullcontext() if self.attends_itself else named([ATTENTION] * len(self.configs), self.configs)

    def begin(self, token_BT: Tensor, view: CacheView) -> tuple[Tensor, LayerPass]:
        """Embed tokens at the view's positions: the residual stream before layer 0, (B, T, W), and the pass."""
        mask = {"attention_mask": view.attention_mask()} if view.left_padded else {}

        def embed(token_BT: Tensor, position_BT: Tensor) -> tuple[Tensor, list[LayerCall]]:
            return self.embed(input_ids=token_BT, position_ids=position_BT, cache=view, use_cache=True, **mask)

        if self.switch is None or view.reach <= self.switch:
            hidden_BTW, calls = embed(token_BT, view.position_BT)
        else:
            hidden_BTW, calls = embed_apart(embed, token_BT, view.position_BT, self.switch, self.axes)
        return hidden_BTW, LayerPass(self, view, calls)

    def embed(self, **inputs: Any) -> tuple[Tensor, list[LayerCall]]:
        """The residual stream before layer 0, (B, T, W), and how the model calls its layers for such inputs."""
        self._calls.clear()
        self._embedder(**inputs)
        return self._calls[0][0], [call for _, call in self._calls]

    def normed(self, hidden_BW: Tensor) -> Tensor:
        """The input of the head for a residual stream, (B, H): after final norm and, if there is one, projection."""
        return _through(self.after_layers, hidden_BW)

    def unnormed(self, hidden_BW: Tensor) -> Tensor:
        """The input of the head for a stream that has been normed: after the projection, if there is one."""
        return _through(self.projections, hidden_BW)

    def head(self, ready_BH: Tensor) -> Tensor:
        """The logits (B, V) of an input of the head, with the model's scaling and soft-cap."""
        logits_BTV: Tensor = self.head_alone(inputs_embeds=ready_BH[:, None], use_cache=False).logits
        return logits_BTV[:, 0]

    def read(self, hidden_BW: Tensor) -> Tensor:
        """The logits (B, V) of a residual stream, as the model itself reads it after its last layer."""
        return self.head(self.normed(hidden_BW))


def _through(modules: Sequence[nn.Module], hidden_BW: Tensor) -> Tensor:
    hidden_BTW = hidden_BW[:, None]
    for module in modules:
        hidden_BTW = module(hidden_BTW)
    return hidden_BTW[:, 0]
