"""A transformers decoder on its own forward, with a function of ours called in place of each of its layers.

What is between the layers is transformers' own: embeddings, positions, rotary angles, masks, windows, attention, norms
and head. The function gets the residual stream that enters a layer and returns what the next layer gets. It may run the
layer, have it write keys and values alone (`eexit.model.kv_projection`), or pass the stream on. What is run is a copy
of the module that holds the layers (`eexit.model.structure`), so that others may use the model meanwhile.

Shapes: B rows, T tokens, C columns of the cache, W width of the residual stream, H width of what the head takes, V
vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from eexit.errors import UsageError
from eexit.model import structure, support
from eexit.model.cache import KVCache
from eexit.model.kv_projection import KVProjection, Projection, without_queries

FAR_POSITION: Final = 1 << 20  # of a model without a limit

_running: Final[ContextVar[tuple["Visit", KVCache]]] = ContextVar("running")  # the pass of this thread, if it is in one


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask for torch's attention; in our passes, the device isn't asked whether it could do without."""
    return sdpa_mask(*args, **(kwargs | {"allow_is_causal_skip": False} if _running.get(None) else kwargs))


AttentionMaskInterface.register("sdpa", _mask)


@dataclass(frozen=True)
class Layer:
    """A layer within a forward, and the arguments that the model calls it with besides the residual stream."""

    decoder: "Decoder"
    cache: KVCache
    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, hidden_BTW: Tensor, projections: Sequence[Projection] = ()) -> Tensor:
        """Run the layer, which writes its keys and values; return the residual stream after it, (B, T, W).

        `projections` take the place of the layer's own to keys and to values, which have to be two modules.
        """
        module, (args, kwargs) = self.decoder.layers[self.index], self._arguments()
        if projections:
            module = self.decoder.for_keys[self.index].projecting(module, projections)
        output = module(hidden_BTW.to(self.decoder.devices[self.index]), *args, **kwargs)
        after_BTW: Tensor = output[0] if isinstance(output, tuple | list) else output
        return after_BTW

    def write_keys(self, hidden_BTW: Tensor, projections: Sequence[Projection] = ()) -> None:
        """Write the layer's keys and values for this residual stream, without running the rest of the layer."""
        hidden_BTW = hidden_BTW.to(self.decoder.devices[self.index])
        self.decoder.for_keys[self.index].write(self.cache, projections, hidden_BTW, *self.args, **self.kwargs)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The layer's arguments, with a mask that leaves out the columns that are hidden in it."""
        if (hidden_SC := self.cache.hidden.get(self.index)) is None or (mask := self.mask) is None:
            return self.args, self.kwargs
        columns = slice(self.cache.first, self.cache.first + mask.shape[-1])
        hidden = hidden_SC[: self.cache.n_rows, None, None, columns].to(mask.device)
        call = self._call
        call.arguments["attention_mask"] = (
            mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        )
        return call.args[2:], call.kwargs

    @property
    def mask(self) -> Tensor | None:
        """The layer's mask, (B, 1, T, C), boolean or added to scores; None if it is given none."""
        given = self._call.arguments.get("attention_mask")
        return given if isinstance(given, Tensor) and given.ndim == 4 else None

    @property
    def _call(self) -> inspect.BoundArguments:
        return self.decoder.signatures[self.index].bind(None, None, *self.args, **self.kwargs)


# Of a layer and the stream that enters it: what the next gets, (B, T, W). `Layer.run` is the one that changes nothing.
Visit = Callable[[Layer, Tensor], Tensor]


@dataclass(frozen=True)
class ForwardInputs:
    """Tokens of a pass: those of each row are to the right, behind padding.

    `attention_mask_BC` are the columns of the cache that hold tokens of a row, those of this pass included, which are
    the last. They begin with column `first_column`. Layers get no columns before it, and so no more than the longest
    row has tokens: some models have masks or biases for no more columns than their context has positions.
    """

    token_BT: Tensor
    position_BT: Tensor
    attention_mask_BC: Tensor
    first_column: int = 0

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], device: torch.device, end: int = 0) -> "ForwardInputs":
        """Return whole texts as inputs, padded on the left; they end before column `end`, or where the longest does."""
        longest = max(map(len, texts))
        token_BT = torch.tensor([[*[-1] * (longest - len(text)), *text] for text in texts])
        can_pin = device.type not in ("cpu", "mps")  # then the host doesn't wait for the copy
        token_BT = (token_BT.pin_memory() if can_pin else token_BT).to(device, non_blocking=can_pin)
        seen_BT = token_BT >= 0
        position_BT = seen_BT.cumsum(1) - 1
        return cls(token_BT.clamp(min=0), position_BT.clamp(min=0), seen_BT, max(0, end - longest))

    def first(self, n_rows: int) -> "ForwardInputs":
        """Return those of the first rows."""
        return ForwardInputs(
            self.token_BT[:n_rows], self.position_BT[:n_rows], self.attention_mask_BC[:n_rows], self.first_column
        )


class Decoder:
    """A causal language model whose layers can be visited.

    `device` is that of the head, where tokens, decisions and readings are; a layer may be on another one. Raises
    `UsageError`, saying what is missing, for a model that can't be run this way.
    """

    def __init__(self, model: PreTrainedModel):
        with support.naming(type(model).__name__):
            support.refuse_unsupported(model.config)
            support.refuse_compiled(model)
            support.refuse_unmerged(model)
            support.refuse_training(model)
            support.refuse_autocast(model.device)
            support.refuse_offloaded(model)
            config, head = model.config.get_text_config(decoder=True), model.get_output_embeddings()
            self.model, self.dtype = model, model.dtype
            self.n_layers: int = config.num_hidden_layers
            self.vocabulary: int = config.vocab_size
            self.context, self.switch = structure.context_of(config), structure.switch_length(config)
            path, name = structure.find_stack(model, self.n_layers)
            stack = model.get_submodule(path)
            self.layers: list[nn.Module] = list(getattr(stack, name))
            self.signatures = [inspect.signature(type(layer).forward) for layer in self.layers]
            self.takes_positions = "position_ids" in inspect.signature(stack.forward).parameters
            self.devices = structure.devices_of(self.layers)
            self.is_hooked = any(hasattr(layer, "_hf_hook") for layer in self.layers)  # accelerate moves their inputs
            self.device = self.devices[-1] if head is None else structure.device_of(head)
            self.first_device = structure.device_of(model.get_input_embeddings())
            self._observe(config, path, name)

    # ---- a pass

    @torch.inference_mode()
    def run(
        self, visit: Visit, inputs: ForwardInputs, cache: KVCache, first: int = 0, entering_BTW: Tensor | None = None
    ) -> Tensor:
        """Run the model's stack of layers, and return what goes into its head, (B, T, H).

        Layers before `first` are left out, and `entering_BTW` is the residual stream that enters it.
        """
        (n_rows, n_tokens), first_device = inputs.token_BT.shape, self.first_device
        start = inputs.first_column + inputs.attention_mask_BC.shape[1] - n_tokens
        cache.begin(n_rows, start, n_tokens, inputs.first_column)
        where = {"position_ids": inputs.position_BT.to(first_device)} if self.takes_positions else {}

        def visit_from_first(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            if layer.index < first:
                return hidden_BTW
            return visit(layer, hidden_BTW if entering_BTW is None or layer.index > first else entering_BTW)

        context = copy_context()  # other threads may call the model meanwhile
        context.run(_running.set, (visit_from_first, cache))
        output: Any = context.run(
            self.visited, input_ids=inputs.token_BT.to(first_device),
            attention_mask=inputs.attention_mask_BC.to(first_device), cache=cache, use_cache=True, **where,
        )  # fmt: skip
        ready_BTH: Tensor = output[0]
        return ready_BTH.to(self.device)

    def _at(self, index: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        visit, cache = _running.get()
        if self.is_hooked:
            args, kwargs = send_to_device((args, kwargs), self.devices[index], skip_keys="cache")
        after_BTW = visit(Layer(self, cache, index, args, kwargs), hidden_states)
        return (after_BTW, *[None] * (self.n_outputs - 1)) if self.n_outputs else after_BTW

    # ---- reading

    def head_input(self, hidden_BW: Tensor) -> Tensor:
        """Return the head's input for a residual stream, (B, H): after final norm and, if there is one, projection."""
        ready_B1H: Tensor = self.after_layers(hidden_BW[:, None])
        return ready_B1H[:, 0].to(self.device)

    def head_input_without_norm(self, hidden_BW: Tensor) -> Tensor:
        """Return the head's input for a stream that has been normed, (B, H): after the projection, if there is one."""
        ready_B1H: Tensor = self.projections(hidden_BW[:, None])
        return ready_B1H[:, 0].to(self.device)

    def lm_head(self, ready_BH: Tensor) -> Tensor:
        """Return the logits, (B, V), of an input of the head, with the model's scaling and soft-cap."""
        logits_B1V: Tensor = self.head_alone(inputs_embeds=ready_BH[:, None], use_cache=False).logits
        return logits_B1V[:, 0]

    # ---- what is known of the model

    def context_of(self, n_prompt: int) -> int | None:
        """Return how many tokens a row may have whose prompt has `n_prompt`; None without a limit.

        If rotary angles switch at a length, a row that begins before the switch ends there.
        """
        return self.switch if self.switch is not None and n_prompt <= self.switch else self.context

    def cache(self, n_slots: int, length: int) -> KVCache:
        """Make room for the keys and values of `n_slots` rows of up to `length` tokens."""
        return KVCache(self.n_layers, n_slots, length, grows=self.device.type == "cpu")

    # ---- observing it once

    @torch.inference_mode()
    def _observe(self, config: Any, path: str, name: str) -> None:
        """Find what follows the layers, and check that visiting them changes nothing.

        `path` is that of the stack of layers, and `name` that of their list in it.
        """
        model: Any = self.model
        texts = support.checked_texts(self.vocabulary, self.context)
        alone, first = ForwardInputs.of(texts[-1:], self.device), self.first_device
        given = {"input_ids": alone.token_BT.to(first), "attention_mask": alone.attention_mask_BC.long().to(first)}
        cache, context = _FakeLengthCache(self.n_layers, 1, len(texts[-1])), copy_context()
        context.run(_running.set, (Layer.run, cache))  # so that the model's own layers get the masks of a pass
        own_TV: Tensor = context.run(model, **given, use_cache=False).logits[0].to(self.device)

        after_TW, ready_TH = self._visit_each(model.get_submodule(path), name, alone, cache)
        for at in (path, path.partition(".")[0]):  # the module around the stack may change its embeddings
            self.head_alone = structure.without(model, at)
            with suppress(Exception):  # a model's code may raise anything
                self.lm_head(ready_TH)
                break
        if not torch.equal(self.lm_head(ready_TH), own_TV):
            why = ": it takes positions from the length of the cache" if cache.asked else ""
            raise UsageError(f"its logits are others when its layers are visited{why}")
        if not torch.equal(self.lm_head(self.head_input(after_TW)), own_TV):
            raise UsageError("its logits don't follow from the residual stream after its last layer")

        self.width: int = after_TW.shape[-1]
        self.cache_shapes = [(part.keys.shape[1::2], part.values.shape[1::2]) for part in cache.columns]
        numbers = sum(shape[0] * shape[1] for shapes in self.cache_shapes for shape in shapes)
        self.cache_bytes_per_token: int = numbers * self.dtype.itemsize
        self.windows = self._windows(config)
        why = "" if self.takes_positions else "; it takes no position_ids"
        support.refuse_mixed(self._last_four, texts, own_TV[-4:].float(), self.dtype, why)

    def _visit_each(
        self, stack: nn.Module, name: str, inputs: ForwardInputs, cache: "_FakeLengthCache"
    ) -> tuple[Tensor, Tensor]:
        """Visit layers, which have to run once each, in order. Find their keys alone, their outputs and what follows.

        Returns the residual stream after the last layer, (T, W), and what goes into the head, (T, H). While a layer
        runs, the cache claims to be as long as the model's context, since it may hold padding.
        """
        stand_ins = [structure.ModuleProxy(layer, partial(self._at, index)) for index, layer in enumerate(self.layers)]
        beside = [path for path, each in stack.named_children() if not isinstance(each, nn.ModuleList)]
        observing, ran = structure.observed(stack, beside)
        self.visited = structure.replace_module(observing, name, stand_ins)
        self.takes_masks, self.for_keys, stream = True, list[KVProjection](), list[Tensor]()

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            if layer.index != len(self.for_keys):
                raise UsageError(f"its layers don't run once each, in order: layer {layer.index} comes after others")
            if (mask := layer.mask) is None or mask[0, 0, -1, -1] != (mask.dtype == torch.bool):
                self.takes_masks = False  # the last token doesn't see itself by it: `True` hides, as in MPT
            cache.claimed = (self.context or FAR_POSITION) - 1
            module, hidden_BTW = self.layers[layer.index], hidden_BTW.to(self.devices[layer.index])
            output = module(hidden_BTW, *layer.args, **layer.kwargs)
            self.for_keys.append(without_queries(module, cache, layer.index, hidden_BTW, *layer.args, **layer.kwargs))
            cache.claimed = None
            self.n_outputs = len(output) if isinstance(output, tuple | list) else 0
            stream[:] = [output[0] if self.n_outputs else output]
            ran.clear()
            return stream[0]

        ready_1TH = self.run(visit, inputs, cache)
        if len(self.for_keys) < self.n_layers:
            raise UsageError(f"{len(self.for_keys)} of its {self.n_layers} layers run")
        self.visited = structure.replace_module(stack, name, stand_ins)
        ends = [stack.get_submodule(path) for path, _, _ in ran]
        self.after_layers = nn.Sequential(*ends)
        self.projections = nn.Sequential(*(each for each in ends if "norm" not in type(each).__name__.lower()))
        return stream[0][0].to(self.device), ready_1TH[0]

    def _windows(self, config: Any) -> list[int | None]:
        """How many tokens each layer attends to, its own included; None for all. Masks far into a text say so, too."""
        windows: list[int | None] = [each.get("sliding_window") for each in get_layer_types_and_kwargs(config)[1]]
        farthest = max(filter(None, windows), default=0) + 2

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            window, mask = windows[layer.index], layer.mask
            if window and mask is not None and window < (self.context or FAR_POSITION):
                n_seen = int((mask if mask.dtype == torch.bool else mask == 0).sum())
                if n_seen != window:
                    raise UsageError(f"layer {layer.index} has a window of {window} tokens that its masks don't have")
            return hidden_BTW

        if farthest > 2:
            one = torch.ones(1, 1, dtype=torch.long, device=self.device)
            far = ForwardInputs(one, one * (farthest - 1), one.expand(1, farthest).bool())
            self.run(visit, far, self.cache(1, farthest))
        return windows

    def _last_four(self, texts: support.Texts, nudge: float) -> Tensor:
        """Return the logits behind the last four tokens of texts, (B, 4, V), by each kind of pass that there is.

        The first of the four ends a pass over all tokens before, the second has a pass of its own, and the last two are
        deferred: each runs half of the layers by itself, and they run the others together. The hidden state is nudged
        before every layer, by up to so much of its size.
        """
        whole, cache = ForwardInputs.of(texts, self.device), self.cache(len(texts), len(texts[0]))
        generator, length, half = torch.Generator().manual_seed(0), len(texts[0]), self.n_layers // 2
        deferred: list[Tensor] = []

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            noise = torch.rand(hidden_BTW.shape, generator=generator).to(hidden_BTW) * 2 - 1
            return layer.run(hidden_BTW * (1 + nudge * noise) if nudge else hidden_BTW)

        def defer(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            if layer.index == half:
                deferred.append(hidden_BTW)
            return visit(layer, hidden_BTW) if layer.index < half else hidden_BTW

        def part(start: int, end: int) -> ForwardInputs:
            at = slice(start, end)
            return ForwardInputs(whole.token_BT[:, at], whole.position_BT[:, at], whole.attention_mask_BC[:, :end])

        first = self.run(visit, part(0, length - 3), cache)[:, -1:]
        second = self.run(visit, part(length - 3, length - 2), cache)
        for at in (length - 2, length - 1):
            self.run(defer, part(at, at + 1), cache)
        later = self.run(visit, part(length - 2, length), cache, half, torch.cat(deferred, 1))
        ready_B4H = torch.cat([first, second, later], 1)
        logits_B4V: Tensor = self.lm_head(ready_B4H.flatten(0, 1)).unflatten(0, (-1, 4))
        return logits_B4V.float()


class _FakeLengthCache(KVCache):
    """A cache that may claim another length than it has, and notes if it is asked for it then."""

    claimed: int | None = None
    asked = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        self.asked = self.asked or self.claimed is not None
        return super().get_seq_length(layer_idx) if self.claimed is None else self.claimed
