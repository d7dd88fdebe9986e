"""A transformers decoder on its own forward, with a function of ours called in place of each of its layers.

Everything between the layers is transformers' own: embeddings, positions, rotary angles, masks, windows, attention,
norms and head. The function gets the input of a layer and returns the input of the next. It may run the layer, have it
write keys and values alone (`eexit.model.kv_projection`), or pass its input on. The model itself stays as it is: the
module that runs is a copy of the one that holds the layers (`eexit.model.structure`).
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
    """Return transformers' mask for torch's attention; in our passes, always a mask, so that the host doesn't wait."""
    return sdpa_mask(*args, **(kwargs | {"allow_is_causal_skip": False} if _running.get(None) else kwargs))


AttentionMaskInterface.register("sdpa", _mask)


@dataclass(frozen=True)
class VisitedLayer:
    """Layer that a forward pass has reached, with the model's arguments for it besides the hidden states."""

    decoder: "Decoder"
    cache: KVCache
    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, hidden_BTD: Tensor, projections: Sequence[Projection] = ()) -> Tensor:
        """Run the layer, which writes its keys and values; return the hidden states after it, (B, T, D).

        `projections`, if any, replace the layer's own projections to keys and to values, which have to be two modules.
        """
        module, (args, kwargs) = self.decoder.layers[self.index], self._arguments()
        if projections:
            module = self.decoder.for_keys[self.index].projecting(module, projections)
        output = module(hidden_BTD.to(self.decoder.devices[self.index]), *args, **kwargs)
        after_BTD: Tensor = output[0] if isinstance(output, tuple | list) else output
        return after_BTD

    def write_keys(self, hidden_BTD: Tensor, projections: Sequence[Projection] = ()) -> None:
        """Write the layer's keys and values for these hidden states, without running the rest of the layer."""
        hidden_BTD = hidden_BTD.to(self.decoder.devices[self.index])
        self.decoder.for_keys[self.index].write(self.cache, projections, hidden_BTD, *self.args, **self.kwargs)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the layer's arguments, with the layer's hidden columns left out of the mask."""
        if (hidden_SC := self.cache.hidden.get(self.index)) is None or (mask := self.mask) is None:
            return self.args, self.kwargs
        columns = slice(self.cache.first, self.cache.first + mask.shape[-1])
        hidden = hidden_SC[: self.cache.n_rows, None, None, columns].to(mask.device)
        call = self._call
        masked = mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        call.arguments["attention_mask"] = masked
        return call.args[2:], call.kwargs

    @property
    def mask(self) -> Tensor | None:
        """The layer's mask, (B, 1, T, C), boolean or added to scores; None if it is given none."""
        mask = self._call.arguments.get("attention_mask")
        return mask if isinstance(mask, Tensor) and mask.ndim == 4 else None

    @property
    def _call(self) -> inspect.BoundArguments:
        return self.decoder.signatures[self.index].bind(None, None, *self.args, **self.kwargs)


# From a layer and its input to the input of the next, (B, T, D). `VisitedLayer.run` changes nothing.
Visit = Callable[[VisitedLayer, Tensor], Tensor]


@dataclass(frozen=True)
class ForwardInputs:
    """Tokens of a pass, aligned on the right behind padding.

    `attention_mask_BC` flags the columns of the cache that hold tokens of a sequence, from column `first_column` to the
    last of this pass. Layers get no columns before it, and so no more than the longest sequence has tokens: some models
    have masks or biases for no more columns than their context has positions.
    """

    token_BT: Tensor
    position_BT: Tensor
    attention_mask_BC: Tensor
    first_column: int = 0

    @classmethod
    def from_texts(cls, texts: Sequence[Sequence[int]], device: torch.device, end: int = 0) -> "ForwardInputs":
        """Return whole texts as inputs, padded on the left; they end before column `end`, or where the longest does."""
        longest = max(map(len, texts))
        token_BT = torch.tensor([[*[-1] * (longest - len(text)), *text] for text in texts])
        can_pin = device.type not in ("cpu", "mps")  # then the host doesn't wait for the copy
        token_BT = (token_BT.pin_memory() if can_pin else token_BT).to(device, non_blocking=can_pin)
        mask_BT = token_BT >= 0
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        return cls(token_BT.clamp(min=0), position_BT, mask_BT, max(0, end - longest))

    def select(self, index: Tensor | slice) -> "ForwardInputs":
        """Return the inputs of some sequences."""
        parts = self.token_BT[index], self.position_BT[index], self.attention_mask_BC[index]
        return ForwardInputs(*parts, self.first_column)


class Decoder:
    """Causal language model whose layers can be visited. Raises `UsageError` for a model without such layers.

    `device` is the LM head's, where tokens, decisions and reads are; a layer may be on another one.
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
            self.needs_positions = "position_ids" in inspect.signature(stack.forward).parameters
            self.devices = structure.devices_of(self.layers)
            self.is_hooked = any(hasattr(layer, "_hf_hook") for layer in self.layers)  # accelerate moves their inputs
            self.device = self.devices[-1] if head is None else structure.device_of(head)
            self.first_device = structure.device_of(model.get_input_embeddings())
            self._inspect(config, path, name)

    # ---- a pass

    @torch.inference_mode()
    def run(
        self, visit: Visit, inputs: ForwardInputs, cache: KVCache, first: int = 0, entering_BTD: Tensor | None = None
    ) -> Tensor:
        """Run the model's stack of layers from layer `first` on, and return the head inputs, (B, T, F).

        `entering_BTD` is the input of that layer; without it, the layer's input is the embeddings.
        """
        (n_rows, n_tokens), first_device = inputs.token_BT.shape, self.first_device
        start = inputs.first_column + inputs.attention_mask_BC.shape[1] - n_tokens
        cache.begin(n_rows, start, n_tokens, inputs.first_column)
        positions = {"position_ids": inputs.position_BT.to(first_device)} if self.needs_positions else {}

        def visit_from_first(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            if layer.index < first:
                return hidden_BTD
            return visit(layer, hidden_BTD if entering_BTD is None or layer.index > first else entering_BTD)

        context = copy_context()  # other threads may call the model meanwhile
        context.run(_running.set, (visit_from_first, cache))
        output: Any = context.run(
            self.visited, input_ids=inputs.token_BT.to(first_device),
            attention_mask=inputs.attention_mask_BC.to(first_device), cache=cache, use_cache=True, **positions,
        )  # fmt: skip
        head_input_BTF: Tensor = output[0]
        return head_input_BTF.to(self.device)

    def _visit(self, index: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        visit, cache = _running.get()
        if self.is_hooked:
            args, kwargs = send_to_device((args, kwargs), self.devices[index], skip_keys="cache")
        after_BTD = visit(VisitedLayer(self, cache, index, args, kwargs), hidden_states)
        return (after_BTD, *[None] * (self.n_outputs - 1)) if self.n_outputs else after_BTD

    # ---- reads

    def head_input(self, hidden_ND: Tensor, with_norm: bool = True) -> Tensor:
        """Return the head inputs for hidden states, (N, F): after final norm and, if there is one, projection."""
        head_input_N1F: Tensor = (self.after_layers if with_norm else self.projections)(hidden_ND[:, None])
        return head_input_N1F[:, 0].to(self.device)

    def lm_head(self, head_input_NF: Tensor) -> Tensor:
        """Return the logits, (N, V), with the model's scaling and soft-cap."""
        logits_N1V: Tensor = self.head_alone(inputs_embeds=head_input_NF[:, None], use_cache=False).logits
        return logits_N1V[:, 0]

    def context_of(self, n_prompt: int) -> int | None:
        """Return how many tokens a sequence may have whose prompt has `n_prompt`; None without a limit.

        If rotary angles switch at a length, a sequence that begins before the switch ends there.
        """
        return self.switch if self.switch is not None and n_prompt <= self.switch else self.context

    def cache(self, n_slots: int, length: int) -> KVCache:
        """Return a KV cache for `n_slots` sequences of up to `length` tokens."""
        return KVCache(self.n_layers, n_slots, length, grows=self.device.type == "cpu")

    # ---- observing the model once

    @torch.inference_mode()
    def _inspect(self, config: Any, path: str, name: str) -> None:
        """Find the parts after the layers, which `path` and `name` lead to, and check that visits change nothing."""
        model: Any = self.model
        texts = support.checked_texts(self.vocabulary, self.context)
        alone, first = ForwardInputs.from_texts(texts[-1:], self.device), self.first_device
        inputs = {"input_ids": alone.token_BT.to(first), "attention_mask": alone.attention_mask_BC.long().to(first)}
        cache, context = _FakeLengthCache(self.n_layers, 1, len(texts[-1])), copy_context()
        context.run(_running.set, (VisitedLayer.run, cache))  # so that the model's own layers get the masks of a pass
        own_TV: Tensor = context.run(model, **inputs, use_cache=False).logits[0].to(self.device)

        after_TD, head_input_TF = self._visit_each(model.get_submodule(path), name, alone, cache)
        for at in (path, path.partition(".")[0]):  # the module around the stack may change its embeddings
            self.head_alone = structure.without(model, at)
            with suppress(Exception):  # a model's code may raise anything
                self.lm_head(head_input_TF)
                break
        if not torch.equal(self.lm_head(head_input_TF), own_TV):
            why = ": it takes positions from the length of the cache" if cache.asked else ""
            raise UsageError(f"its logits change when its layers are visited{why}")
        if not torch.equal(self.lm_head(self.head_input(after_TD)), own_TV):
            raise UsageError("its logits don't follow from the hidden state after its last layer")

        self.width: int = after_TD.shape[-1]  # of hidden states, D
        self.cache_shapes = [(layer.keys.shape[1::2], layer.values.shape[1::2]) for layer in cache.columns]
        numbers = sum(shape[0] * shape[1] for shapes in self.cache_shapes for shape in shapes)
        self.cache_bytes_per_token: int = numbers * self.dtype.itemsize
        self.windows = self._windows(config)
        why = "" if self.needs_positions else "; it takes no position_ids"
        support.refuse_mixed(self._last_four, texts, own_TV[-4:].float(), self.dtype, why)

    def _visit_each(
        self, stack: nn.Module, name: str, inputs: ForwardInputs, cache: "_FakeLengthCache"
    ) -> tuple[Tensor, Tensor]:
        """Visit layers, which have to run once each, in order. Find their `KVProjection`s, outputs and what follows.

        Returns the hidden states after the last layer, (T, D), and the head inputs, (T, F). While a layer runs, the
        cache claims to be as long as the model's context, since it may hold padding.
        """
        proxies = [structure.ModuleProxy(layer, partial(self._visit, index)) for index, layer in enumerate(self.layers)]
        beside = [path for path, each in stack.named_children() if not isinstance(each, nn.ModuleList)]
        observing, calls = structure.observed(stack, beside)
        self.visited = structure.replace_module(observing, name, proxies)
        self.has_masks, self.for_keys, last = True, list[KVProjection](), list[Tensor]()

        def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            if layer.index != len(self.for_keys):
                raise UsageError(f"its layers don't run once each, in order: layer {layer.index} comes after others")
            if (mask := layer.mask) is None or mask[0, 0, -1, -1] != (mask.dtype == torch.bool):
                self.has_masks = False  # by it, the last token doesn't attend to itself: `True` hides, as in MPT
            cache.claimed = (self.context or FAR_POSITION) - 1
            module, hidden_BTD = self.layers[layer.index], hidden_BTD.to(self.devices[layer.index])
            output = module(hidden_BTD, *layer.args, **layer.kwargs)
            self.for_keys.append(without_queries(module, cache, layer.index, hidden_BTD, *layer.args, **layer.kwargs))
            cache.claimed = None
            self.n_outputs = len(output) if isinstance(output, tuple | list) else 0
            last[:] = [output[0] if self.n_outputs else output]
            calls.clear()
            return last[0]

        head_input_1TF = self.run(visit, inputs, cache)
        if len(self.for_keys) < self.n_layers:
            raise UsageError(f"{len(self.for_keys)} of its {self.n_layers} layers run")
        self.visited = structure.replace_module(stack, name, proxies)
        ends = [stack.get_submodule(path) for path, _, _ in calls]
        self.after_layers = nn.Sequential(*ends)
        self.projections = nn.Sequential(*(each for each in ends if "norm" not in type(each).__name__.lower()))
        return last[0][0].to(self.device), head_input_1TF[0]

    def _windows(self, config: Any) -> list[int | None]:
        """Return how many tokens each layer attends to, its own included; None: all. Check it by masks."""
        windows: list[int | None] = [each.get("sliding_window") for each in get_layer_types_and_kwargs(config)[1]]
        farthest = max(filter(None, windows), default=0) + 2

        def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            window, mask = windows[layer.index], layer.mask
            if not window or mask is None or window >= (self.context or FAR_POSITION):
                return hidden_BTD
            if int((mask if mask.dtype == torch.bool else mask == 0).sum()) != window:
                raise UsageError(f"layer {layer.index} has a window of {window} tokens that its masks don't have")
            return hidden_BTD

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
        whole, cache = ForwardInputs.from_texts(texts, self.device), self.cache(len(texts), len(texts[0]))
        generator, length, half = torch.Generator().manual_seed(0), len(texts[0]), self.n_layers // 2
        deferred: list[Tensor] = []

        def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            noise = torch.rand(hidden_BTD.shape, generator=generator).to(hidden_BTD) * 2 - 1
            return layer.run(hidden_BTD * (1 + nudge * noise) if nudge else hidden_BTD)

        def defer(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            if layer.index == half:
                deferred.append(hidden_BTD)
            return visit(layer, hidden_BTD) if layer.index < half else hidden_BTD

        def between(start: int, end: int) -> ForwardInputs:
            at = slice(start, end)
            return ForwardInputs(whole.token_BT[:, at], whole.position_BT[:, at], whole.attention_mask_BC[:, :end])

        first = self.run(visit, between(0, length - 3), cache)[:, -1:]
        second = self.run(visit, between(length - 3, length - 2), cache)
        for at in (length - 2, length - 1):
            self.run(defer, between(at, at + 1), cache)
        later = self.run(visit, between(length - 2, length), cache, half, torch.cat(deferred, 1))
        head_input_B4F = torch.cat([first, second, later], 1)
        logits_B4V: Tensor = self.lm_head(head_input_B4F.flatten(0, 1)).unflatten(0, (-1, 4))
        return logits_B4V.float()


class _FakeLengthCache(KVCache):
    """KV cache that can report a false length, and records whether its length was read meanwhile."""

    claimed: int | None = None
    asked = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        self.asked = self.asked or self.claimed is not None
        return super().get_seq_length(layer_idx) if self.claimed is None else self.claimed
