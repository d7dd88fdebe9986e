"""A transformers decoder taken apart by its structure, so that its layers can be run one at a time, for any rows.

What depends on transformers' internals is here and in the modules that this one imports; no model family is known by
name. The model's own forward runs with its layers replaced by recorders, which shows how each layer is called
(embeddings, positions, rotary angles); then the layers are called the same way, with our cache and attention. Layers
that compute attention themselves, rather than call transformers' attention interface, are called as in a batch that is
padded on the left. The modules between the last layer and the logits are found by observing one forward, and every part
is checked against that forward.

Shapes: B rows, T tokens, W width of the residual stream, H width of what the head takes, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from eexit.messages.errors import UsageError, first_line
from eexit.model.cache import KVCache
from eexit.model.layer_calls import CallsFor, LayerCall, row_axes
from eexit.model.support.far_tokens import far_positions, watch_token_at, windows_of
from eexit.model.support.grafting import Echo, Recorder, graft
from eexit.model.support.keys_alone import keys_alone
from eexit.model.support.longrope import embed_apart, switch_length
from eexit.model.support.refusals import cached_windows, find_stack, refuse_several_devices, refuse_unsupported, takes
from eexit.model.support.self_attending import check_self_attending
from eexit.model.support.soundness import check
from eexit.model.support.watching import (
    ATTENTION,
    WATCHED,
    Forward,
    Handed,
    OwnAttention,
    asks_for_attention,
    attention_by,
    configs_of,
    watch_row,
)
from eexit.model.views import CacheView, KeysWritten

PROBE_TOKENS: Final = (9, 4, 6)  # lengths of the prompts that a model is observed with
# Arguments that layers pass to their attention, and that change nothing in what it computes here:
WITHOUT_EFFECT: Final = frozenset({
    "dropout",  # only in training
    "is_causal", "sliding_window",  # the model's masks say the same, and ours are compared with them
    "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",  # where packed texts begin
    "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "labels",  # what is returned
})  # fmt: skip

_running: ContextVar["LayerPass"] = ContextVar("_running")  # not every layer passes its arguments on to attention


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *,
    scaling: float | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **others: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Our implementation of transformers' attention interface, for the running pass; `s_aux` are attention sinks.

    Raises `UsageError` for other arguments than those that have no effect, unless they are None.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    running = _running.get()
    given = {name for name, value in others.items() if value is not None}
    if unknown := sorted(given - WITHOUT_EFFECT):
        raise UsageError(
            f"layer {running.view.layer} gives its attention {', '.join(unknown)}, which ours does not take"
        )
    window = running.windows[running.view.layer]
    return running.view.attend(query, key, value, scaling, window, softcap, s_aux), None


AttentionInterface.register(ATTENTION, _attention)


class LayerPass:
    """A pass of some tokens through the layers, one layer at a time; `view` is the cache that it reads and writes."""

    def __init__(
        self, layers: Sequence[nn.Module], for_keys: Sequence[nn.Module], view: CacheView, calls: Sequence[LayerCall],
        axes: Sequence[LayerCall], windows: Sequence[int | None],
    ):  # fmt: skip
        self.layers, self.for_keys, self.view, self.calls = layers, for_keys, view, calls
        self.axes, self.windows = axes, windows

    def among(self, rows: Tensor, view: CacheView) -> "LayerPass":
        """The same pass for some of its rows, with a view for those."""
        calls = CallsFor(self.calls, self.axes, self.view, rows, view)
        return LayerPass(self.layers, self.for_keys, view, calls, self.axes, self.windows)

    def block(self, layer: int, hidden_BTW: Tensor) -> Tensor:
        """Run one layer: writes its keys and values, and returns the residual stream after it, (B, T, W)."""
        call = self.calls[layer]
        with self.answering():
            output: Any = self.layers[layer](hidden_BTW, *call.args, **call.kwargs)
        hidden_after_BTW: Tensor = output[0] if isinstance(output, tuple | list) else output
        return hidden_after_BTW

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A context in which our attention uses the cache of this pass."""
        before = _running.set(self)
        try:
            yield
        finally:
            _running.reset(before)

    def write_keys(self, layer: int, hidden_BTW: Tensor) -> None:
        """Write one layer's keys and values for this residual stream, without running the rest of the layer.

        Queries are not computed either, unless one matrix makes them together with keys or values.
        """
        call = self.calls[layer]
        with self.view.keys_only(), suppress(KeysWritten):
            self.for_keys[layer](hidden_BTW, *call.args, **call.kwargs)


class Decoder:
    """A causal language model as embeddings, layers and a readout.

    Raises `UsageError`, saying what is missing, for a model that can't be run this way.
    """

    def __init__(self, model: PreTrainedModel):
        config, what = model.config.get_text_config(decoder=True), type(model).__name__
        try:
            refuse_unsupported(model.config, config)
            refuse_several_devices(model)
            self.n_layers: int = config.num_hidden_layers
            self.context = context_of(config)
            self.switch = switch_length(config)
            self.vocabulary: int = config.vocab_size
            self.device, self.dtype = model.device, model.dtype
            path, name = find_stack(model, self.n_layers)
            self._take_apart(model, config, path, name)
        except UsageError as error:
            raise UsageError(f"{what} is not supported: {error}") from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's code that is not made to be run this way may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"{what} is not supported: run layer by layer, its own code raises {reason}") from error

    def _take_apart(self, model: PreTrainedModel, config: Any, path: str, name: str) -> None:
        stack = model.get_submodule(path)
        self.layers: list[nn.Module] = list(getattr(stack, name))
        self.for_keys = self.layers
        self.configs = configs_of(stack)
        self.takes_positions = takes(stack, "position_ids")
        self.windows: list[int | None] = [None] * self.n_layers  # tokens that a layer attends to, the own one included
        self._calls: list[tuple[Tensor, LayerCall]] = []
        self._axes: list[LayerCall] = []
        far = far_positions(config, self.context)
        self.attends_itself = not asks_for_attention(model, self.configs, self._probes()[0][0])
        try:
            if not self.attends_itself:
                rows = self._watch(model, path, name, WATCHED)
                tokens_at = [watch_token_at(self, position) for position in far]
                self.windows = windows_of(tokens_at)
                check(self, rows, tokens_at)
        except OwnAttention:
            self.attends_itself = True
        if self.attends_itself:
            rows = self._watch(model, path, name, None)
            check_self_attending(self, rows, far)
        self._require_windows(cached_windows(config), far[-1])
        self.for_keys = keys_alone(self, rows[0][0].entering_1TW)
        cache = self._one_position()
        self.cache_bytes_per_token = cache.n_bytes
        self.cache_shapes = [tuple(part.shape for part in cache.held(layer)) for layer in range(self.n_layers)]

    def _watch(self, model: PreTrainedModel, path: str, name: str, implementation: str | None) -> list[list[Forward]]:
        """Observe the unmodified model on some rows, to find how it calls its layers and what follows them."""
        stack = model.get_submodule(path)
        rows = [watch_row(model, stack, self.layers, parts, implementation) for parts in self._probes()]
        watched = rows[0][0]
        self.after_layers = watched.after_layers
        self.width = watched.leaving_1TW[-1].shape[-1]  # of the residual stream
        self.projections = [module for module in self.after_layers if "norm" not in type(module).__name__.lower()]
        recorders = [Recorder(layer, self._calls, watched.returns_tuple) for layer in self.layers]
        self._embedder = graft(stack, name, recorders)
        self.head_alone = self._find_head(model, path, watched.leaving_1TW[-1][0])
        self._axes = self._find_rows()
        return rows

    @torch.inference_mode()
    def _find_head(self, model: PreTrainedModel, path: str, hidden_TW: Tensor) -> Any:
        """The model without its stack of layers, or without the module around it if that changes the embeddings."""
        holder = path.partition(".")[0]
        try:
            self.head_alone = graft(model, path, Echo(model.get_submodule(path)))
            self.read(hidden_TW)
            return self.head_alone
        except Exception:  # as above
            return graft(model, holder, Echo(model.get_submodule(holder)))

    def _require_windows(self, cached: Sequence[int | None], farthest: int) -> None:
        """Our cache drops nothing, so that windows must be in the masks, not only in what transformers' cache drops."""
        for layer, (held, window) in enumerate(zip(cached, self.windows, strict=True)):
            if held is not None and held <= farthest and held != window:
                raise UsageError(f"layer {layer} has a window of {held} tokens that its masks don't have")

    def _probes(self) -> list[list[Tensor]]:
        """Rows of different lengths to observe the model with: each is a prompt and one token behind it."""
        tokens = [torch.arange(1, n + 2, device=self.device)[None] % self.vocabulary for n in PROBE_TOKENS]
        return [[token_1T[:, :-1], token_1T[:, -1:]] for token_1T in tokens]

    @torch.inference_mode()
    def _find_rows(self) -> list[LayerCall]:
        """The row axes of the layers' arguments, found by comparing calls for two and for three rows."""
        position_B1 = torch.tensor([[5], [1], [3]], device=self.device)  # different, so that a mask is needed
        calls = []
        with self.attending():
            for n_rows in (2, 3):
                view = self.view(KVCache(n_rows, 6), position_B1[:n_rows], 6)
                calls.append(self.begin(torch.ones_like(view.position_BT), view)[1].calls)
        axes: list[LayerCall] = row_axes(*calls)
        return axes

    @torch.inference_mode()
    def _one_position(self) -> KVCache:
        """A cache with the keys and values of one position."""
        cache = KVCache(1, 1)
        view = self.view(cache, torch.zeros(1, 1, dtype=torch.long, device=self.device), 1)
        with self.attending():
            hidden_BTW, layer_pass = self.begin(torch.ones_like(view.position_BT), view)
            for layer in range(self.n_layers):
                layer_pass.write_keys(layer, hidden_BTW)
        return cache

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
        return attention_by(None if self.attends_itself else ATTENTION, self.configs)

    def begin(self, token_BT: Tensor, view: CacheView) -> tuple[Tensor, LayerPass]:
        """Embed tokens at the view's positions: the residual stream before layer 0, (B, T, W), and the pass."""
        mask = {"attention_mask": view.attention_mask()} if view.left_padded else {}

        def embed(token_BT: Tensor, position_BT: Tensor) -> tuple[Tensor, list[LayerCall]]:
            return self.embed(input_ids=token_BT, position_ids=position_BT, cache=view, use_cache=True, **mask)

        if self.switch is None or view.reach <= self.switch:
            hidden_BTW, calls = embed(token_BT, view.position_BT)
        else:
            hidden_BTW, calls = embed_apart(embed, token_BT, view.position_BT, self.switch, self._axes)
        return hidden_BTW, LayerPass(self.layers, self.for_keys, view, calls, self._axes, self.windows)

    def embed(self, **inputs: Any) -> tuple[Tensor, list[LayerCall]]:
        """The residual stream before layer 0, (B, T, W), and how the model calls its layers for such inputs."""
        self._calls.clear()
        self._embedder(**inputs)
        return self._calls[0][0], [call for _, call in self._calls]

    def answer(self, call: Handed, view: CacheView, window: int | None) -> Tensor:
        """The output of our attention for a call by a layer with this window."""
        with LayerPass(self.layers, self.for_keys, view, [], [], [window] * self.n_layers).answering():
            return _attention(call.module, call.query, call.key, call.value, None, **call.options)[0]

    def normed(self, hidden_BW: Tensor) -> Tensor:
        """The input of the head for a residual stream, (B, H): after final norm and, if there is one, projection."""
        return _through(self.after_layers, hidden_BW)

    def unnormed(self, hidden_BW: Tensor) -> Tensor:
        """The same without the norm."""
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


def context_of(config: Any) -> int | None:
    """The number of positions that a model has; None without a limit."""
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions"))
    return next((length for length in named if length), None)
