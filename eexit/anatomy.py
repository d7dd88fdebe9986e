"""A transformers decoder taken apart by structure, so that its layers can be run one at a time, for any rows.

Everything that leans on transformers' internals is here. Nothing is known of model families: the model's own forward
is run with its layers replaced by recorders, which tells how each layer is called (embeddings, positions, rotary
angles); the layers are then called the same way with our cache and attention. What runs between the last layer and
the logits is found by watching one forward, and every part is checked against what it did there.

Shapes: B rows, T tokens, W width of the residual stream, V vocabulary.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import AttentionInterface

from eexit.cache import CacheView, KeysWritten, KVCache
from eexit.config import UsageError

ATTENTION = "eexit"
PROBE_TOKENS = 6

_view_of_pass: ContextVar[CacheView] = ContextVar("_view_of_pass")  # not every layer hands arguments on to attention


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *,
    scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention interface, answered by the view of the pass that runs; `s_aux` are attention sinks."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _view_of_pass.get().attend(query, key, value, scaling, sliding_window, softcap, s_aux), None


AttentionInterface.register(ATTENTION, _attention)


@dataclass(frozen=True)
class LayerCall:
    """How the model calls one of its layers, besides the residual stream."""

    args: tuple
    kwargs: dict[str, Any]


class _Recorder:
    """Stands in for a layer: notes how it is called and hands the residual stream on."""

    def __init__(self, layer: nn.Module, calls: list[tuple[Tensor, LayerCall]], returns_tuple: bool):
        self.layer, self.calls, self.returns_tuple = layer, calls, returns_tuple

    def __call__(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
        self.calls.append((hidden_states, LayerCall(args, kwargs)))
        return (hidden_states,) if self.returns_tuple else hidden_states

    def __getattr__(self, name: str) -> object:
        return getattr(self.layer, name)


class _StackOutput(BaseModelOutputWithPast):
    """What a stack returns; whatever else some model asks of it (cross attentions, router logits) is not there."""

    def __getattr__(self, name: str) -> None:
        return None


def _echo(*_: object, inputs_embeds: Tensor, **__: object) -> _StackOutput:
    """Stands in for the stack of layers: what goes in as embeddings comes out as its last hidden state."""
    return _StackOutput(last_hidden_state=inputs_embeds)


class LayerPass:
    """A pass through the layers over given tokens, one layer at a time; `view` says which cache it reads and writes."""

    def __init__(self, layers: Sequence[nn.Module], view: CacheView, calls: Sequence[LayerCall]):
        self.layers, self.view, self.calls = layers, view, calls

    def among(self, rows: Tensor, view: CacheView) -> "LayerPass":
        """The same pass for rows at the positions of some of its own, with another view."""
        return LayerPass(self.layers, view, _CallsFor(self.calls, self.view, rows, view))

    def block(self, layer: int, hidden_BTW: Tensor) -> Tensor:
        """Run one layer; writes its keys and values and returns the residual stream after it."""
        call = self.calls[layer]
        before = _view_of_pass.set(self.view)
        try:
            output = self.layers[layer](hidden_BTW, *call.args, **call.kwargs)
        finally:
            _view_of_pass.reset(before)
        return output[0] if isinstance(output, tuple) else output

    def write_keys(self, layer: int, hidden_BTW: Tensor) -> None:
        """Give one layer its keys and values from this residual stream, and run no more of it."""
        call = self.calls[layer]
        with self.view.keys_only(), suppress(KeysWritten):
            self.layers[layer](hidden_BTW, *call.args, **call.kwargs)


class _CallsFor(Sequence[LayerCall]):
    """How the layers are called for some rows of a pass, with another view."""

    def __init__(self, calls: Sequence[LayerCall], whole: CacheView, rows: Tensor, view: CacheView):
        self.calls, self.whole, self.rows, self.view = calls, whole, rows, view
        self.selected: dict[int, Tensor] = {}  # by the id of the whole's tensor: most layers are given the same ones

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, layer: Any) -> Any:
        call = self.calls[layer]
        return LayerCall(self._select(call.args), self._select(call.kwargs))

    def _select(self, argument: Any) -> Any:
        if argument is self.whole:
            return self.view
        match argument:
            case Tensor() if argument.ndim > 1 and argument.shape[0] == self.whole.position_BT.shape[0]:
                if id(argument) not in self.selected:
                    self.selected[id(argument)] = argument[self.rows]
                return self.selected[id(argument)]
            case tuple() | list():
                return type(argument)(self._select(item) for item in argument)
            case dict():
                return {name: self._select(item) for name, item in argument.items()}
        return argument


@dataclass(frozen=True)
class Watched:
    """One forward of the model as it is: what went into each layer and came out of the last, and what followed."""

    streams_TW: list[Tensor]  # before layer 0, …, after layer L-1
    after_layers: list[nn.Module]  # what the stack runs between its last layer and its end
    returns_tuple: bool
    logits_TV: Tensor


class Decoder:
    """A causal language model as embeddings, layers and a readout.

    Raises `UsageError`, naming what is missing, for a model that can't be run this way.
    """

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config(decoder=True)
        _refuse_unsupported(model.config, config)
        self.n_layers: int = config.num_hidden_layers
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary: int = config.vocab_size
        self.device, self.dtype = model.device, model.dtype
        path, name = _find_stack(model, self.n_layers)
        stack = model.get_submodule(path)
        self.layers: list[nn.Module] = list(getattr(stack, name))
        self.configs = _distinct([module.config for module in stack.modules() if hasattr(module, "config")])

        probe_ids = torch.arange(1, PROBE_TOKENS + 1, device=self.device)[None] % config.vocab_size
        watched = _watch(model, stack, self.layers, probe_ids)
        self.after_layers = watched.after_layers
        self.projections = [module for module in self.after_layers if "norm" not in type(module).__name__.lower()]
        self._calls: list[tuple[Tensor, LayerCall]] = []
        recorders = [_Recorder(layer, self._calls, watched.returns_tuple) for layer in self.layers]
        self._embedder = _graft(stack, name, recorders)
        self._head = _graft(model, path, _echo)
        self._verify(model, probe_ids, watched)

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Within it the layers use our attention; outside, the model is as it was."""
        before = [config._attn_implementation_internal for config in self.configs]
        for config in self.configs:
            config._attn_implementation_internal = ATTENTION
        try:
            yield
        finally:
            for config, implementation in zip(self.configs, before, strict=True):
                config._attn_implementation_internal = implementation

    def begin(self, token_BT: Tensor, view: CacheView) -> tuple[Tensor, LayerPass]:
        """Embed tokens at the view's positions: the residual stream before layer 0, (B, T, W), and the pass."""
        self._calls.clear()
        self._embedder(input_ids=token_BT, position_ids=view.position_BT, cache=view, use_cache=True)
        hidden_BTW = self._calls[0][0]
        return hidden_BTW, LayerPass(self.layers, view, [call for _, call in self._calls])

    def read(self, hidden_BW: Tensor, norm: bool = True) -> Tensor:
        """The logits (B, V) of a residual stream: final norm (unless told otherwise), head, scaling and soft-cap."""
        hidden_BTW = hidden_BW[:, None]
        for module in self.after_layers if norm else self.projections:
            hidden_BTW = module(hidden_BTW)
        return self._head(inputs_embeds=hidden_BTW, use_cache=False).logits[:, 0]

    @torch.inference_mode()
    def _verify(self, model: PreTrainedModel, probe_ids: Tensor, watched: Watched) -> None:
        """Each layer, given what the model gave it, must give what it gave; and the readout the model's logits."""
        what = type(model).__name__
        position_BT = torch.arange(PROBE_TOKENS, device=self.device)[None]
        cache = KVCache(1, PROBE_TOKENS)
        view = CacheView(cache, position_BT, PROBE_TOKENS)
        try:
            with self.attending():
                embedded_BTW, layer_pass = self.begin(probe_ids, view)
                streams = [layer_pass.block(layer, watched.streams_TW[layer][None]) for layer in range(self.n_layers)]
                logits_TV = self.read(watched.streams_TW[-1])
        except (TypeError, AttributeError, KeyError, IndexError, RuntimeError, ValueError) as error:
            raise UsageError(f"{what} can't be run layer by layer: {type(error).__name__}: {error}") from error
        without = sorted(set(range(self.n_layers)) - view.layers_seen)
        if without:
            raise UsageError(f"{what} is not supported: layer {without[0]} keeps no keys and values per position")
        self.cache_bytes_per_token = cache.n_bytes // PROBE_TOKENS
        names = ["the embedding", *(f"layer {layer}" for layer in range(self.n_layers)), "the readout"]
        ours = [embedded_BTW[0], *(stream_BTW[0] for stream_BTW in streams), logits_TV]
        for name, mine, its in zip(names, ours, [*watched.streams_TW, watched.logits_TV], strict=True):
            off = (torch.linalg.norm(mine.float() - its.float()) / torch.linalg.norm(its.float())).item()
            if not off <= (1e-4 if self.dtype == torch.float32 else 0.05):
                raise UsageError(f"{what} is not supported: {name}, run by itself, is {off:.0%} off")


def _refuse_unsupported(outer: Any, config: Any) -> None:
    """Say what is missing before anything is taken apart."""
    if outer.is_encoder_decoder:
        raise UsageError(f"{outer.model_type} is an encoder-decoder; early exit needs a decoder-only language model")
    if not getattr(config, "num_hidden_layers", None):
        raise UsageError(f"{outer.model_type} has no num_hidden_layers; early exit needs a stack of decoder layers")
    if not getattr(config, "num_attention_heads", None):
        raise UsageError(
            f"{outer.model_type} has no attention heads (a state-space model?); keys and values are needed"
        )
    kinds = set(get_layer_types_and_kwargs(config)[0]) - {"full_attention", "sliding_attention"}
    if kinds:
        raise UsageError(
            f"{outer.model_type} has layers of kind {', '.join(sorted(kinds))}; "
            f"only full and sliding-window attention keep the keys and values per position that early exit needs"
        )


def _find_stack(model: PreTrainedModel, n_layers: int) -> tuple[str, str]:
    """The module whose forward runs the layers, and the name of its list of them."""
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers and list(child[0].children()):
                return path, name
    raise UsageError(f"{type(model).__name__} has no list of {n_layers} decoder layers")


@torch.inference_mode()
def _watch(model: PreTrainedModel, stack: nn.Module, layers: list[nn.Module], token_BT: Tensor) -> Watched:
    streams: list[Tensor] = []
    ran: list[nn.Module] = []
    returned: list[object] = []

    def note_output(_: nn.Module, __: tuple, output: Any) -> None:
        ran.clear()
        returned.append(output)

    handles = [layer.register_forward_pre_hook(lambda _, args: streams.append(args[0][0])) for layer in layers]
    handles.append(layers[-1].register_forward_hook(note_output))
    for child in stack.children():
        if not isinstance(child, nn.ModuleList):
            handles.append(child.register_forward_hook(lambda module, _, __: ran.append(module)))
    try:
        logits = model(input_ids=token_BT, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    [output] = returned
    returns_tuple = isinstance(output, tuple)
    streams.append((output[0] if returns_tuple else output)[0])  # type: ignore[index]
    return Watched(streams, list(ran), returns_tuple, logits)


def _graft(root: nn.Module, path: str, replacement: object) -> Any:
    """A copy of `root` that shares all its weights, with the module at `path` replaced."""
    shell = copy.copy(root)
    head, _, rest = path.partition(".")
    child = _graft(getattr(root, head), rest, replacement) if rest else replacement
    object.__setattr__(shell, head, child)
    return shell


def _distinct(configs: list[Any]) -> list[Any]:
    return list({id(config): config for config in configs}.values())
