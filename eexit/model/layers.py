"""A transformers decoder on its own forward, with a function of ours called in place of each of its layers.

What is between the layers is transformers' own: embeddings, positions, rotary angles, masks, windows, attention, norms
and head. The function gets the residual stream that enters a layer and returns what the next layer gets. It may run the
layer, have it write keys and values alone (`eexit.model.keys_alone`), or pass the stream on. No model family is known
by name: layers, and what follows them, are found by the model's structure and by observing one forward. What is run is
a copy of the module that holds the layers, with stand-ins for these, so that the model itself is never changed, and
others may use it meanwhile.

Shapes: B rows, T tokens, C columns of the cache, W width of the residual stream, H width of what the head takes, V
vocabulary.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from eexit.errors import UsageError, first_line
from eexit.model.cache import KVCache
from eexit.model.devices import devices_of
from eexit.model.keys_alone import KeysAlone, Projection, StandIn, graft, without_queries
from eexit.model.refusals import find_stack, refuse_autocast, refuse_compiled, refuse_unsupported, takes

CHECKED_TOKENS: Final = (29, 6)  # lengths of the prompts that a model is observed with
FAR_POSITION: Final = 1 << 20  # of a model without a limit
# How far a row may be, relative to its size, from what it is alone: it comes from products of other sizes.
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
BEYOND_ROUNDING: Final = 4.0  # it may be so many times as far as rounding moves it
N_NUDGED: Final = 8  # rows, by which that is found

_whole_masks: Final = ContextVar("whole_masks", default=False)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask for torch's attention; in our passes, the device isn't asked whether it could do without."""
    return sdpa_mask(*args, **(kwargs | {"allow_is_causal_skip": False} if _whole_masks.get() else kwargs))


AttentionMaskInterface.register("sdpa", _mask)


@dataclass(frozen=True)
class Layer:
    """A layer within a forward, and the arguments that the model calls it with besides the residual stream."""

    decoder: "Decoder"
    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, hidden_BTW: Tensor, projections: Sequence[Projection] = ()) -> Tensor:
        """Run the layer, which writes its keys and values; return the residual stream after it, (B, T, W).

        `projections` take the place of the layer's own to keys and to values, which have to be two modules.
        """
        module, given = self.decoder.layers[self.index], (hidden_BTW, self.args, self.kwargs)
        if projections:
            module, given = self.decoder.for_keys[self.index].projecting(module, given, projections)
        hidden_BTW, args, kwargs = given
        output = module(hidden_BTW, *args, **kwargs)
        after_BTW: Tensor = output[0] if isinstance(output, tuple | list) else output
        return after_BTW

    def write_keys(self, hidden_BTW: Tensor, projections: Sequence[Projection] = ()) -> None:
        """Write the layer's keys and values for this residual stream, without running the rest of the layer."""
        self.decoder.for_keys[self.index].write(self.cache, hidden_BTW, self.args, self.kwargs, projections)

    def without(self, hidden_SC: Tensor | None) -> "Layer":
        """Return the layer with a mask that hides these columns of the cache, (S, C); None hides nothing."""
        mask = None if hidden_SC is None else self.mask
        if hidden_SC is None or mask is None:
            return self
        hidden = hidden_SC[: self.cache.n_rows, None, None, : mask.shape[-1]].to(mask.device)
        seen = mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        call = self._call
        call.arguments["attention_mask"] = seen
        return Layer(self.decoder, self.index, call.args[2:], call.kwargs)

    @property
    def cache(self) -> KVCache:
        return self.decoder.running.get().cache

    @property
    def mask(self) -> Tensor | None:
        """The layer's mask, (B, 1, T, C), boolean or added to scores; None if it is given none."""
        given = self._call.arguments.get("attention_mask")
        return given if isinstance(given, Tensor) and given.ndim == 4 else None

    @property
    def _call(self) -> inspect.BoundArguments:
        return self.decoder.signatures[self.index].bind(None, None, *self.args, **self.kwargs)


Visit = Callable[[Layer, Tensor], Tensor]  # of a layer and the stream that enters it: what the next gets, (B, T, W)


def run_whole(layer: Layer, hidden_BTW: Tensor) -> Tensor:
    """Run a layer for all tokens: the visit that changes nothing."""
    return layer.run(hidden_BTW)


@dataclass(frozen=True)
class Inputs:
    """Tokens of a pass: those of each row are to the right, behind padding.

    `seen_BC` are the columns of the cache that hold tokens of a row, those of this pass included, which are the last.
    """

    token_BT: Tensor
    position_BT: Tensor
    seen_BC: Tensor

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], device: torch.device, end: int = 0) -> "Inputs":
        """Return whole texts as inputs, padded on the left; they end before column `end`, or where the longest does."""
        longest = max(map(len, texts))
        token_BT = torch.tensor([[*[-1] * (longest - len(text)), *text] for text in texts])
        can_pin = device.type not in ("cpu", "mps")  # then the host doesn't wait for the copy
        token_BT = (token_BT.pin_memory() if can_pin else token_BT).to(device, non_blocking=can_pin)
        seen_BT = token_BT >= 0
        position_BT = seen_BT.cumsum(1) - 1
        seen_BC = nn.functional.pad(seen_BT, (max(0, end - longest), 0))
        return cls(token_BT.clamp(min=0), position_BT.clamp(min=0), seen_BC)


@dataclass(frozen=True)
class _Running:
    """A forward that is under way."""

    visit: Visit
    cache: KVCache
    first: int
    entering: Tensor | None


class Decoder:
    """A causal language model whose layers can be visited.

    `device` is that of the head, where tokens, decisions and readings are; a layer may be on another one. Raises
    `UsageError`, saying what is missing, for a model that can't be run this way.
    """

    running: Final[ContextVar[_Running]] = ContextVar("running")  # a model may be called by other threads meanwhile

    def __init__(self, model: PreTrainedModel):
        config, what = model.config.get_text_config(decoder=True), type(model).__name__
        try:
            refuse_unsupported(model.config, config)
            refuse_compiled(model)
            refuse_autocast(model.device)
            self.model, self.dtype = model, model.dtype
            self.n_layers: int = config.num_hidden_layers
            self.vocabulary: int = config.vocab_size
            self.context, self.switch = context_of(config), switch_length(config)
            self.path, self.name = find_stack(model, self.n_layers)
            self.stack = model.get_submodule(self.path)
            self.layers: list[nn.Module] = list(getattr(self.stack, self.name))
            stand_ins = [StandIn(layer, partial(self._at, index)) for index, layer in enumerate(self.layers)]
            self.visited = graft(self.stack, self.name, stand_ins)
            self.configs = configs_of(self.stack)
            self.signatures = [inspect.signature(type(layer).forward) for layer in self.layers]
            self.takes_positions = takes(self.stack, "position_ids")
            self.device, self.first_device, self.devices = devices_of(model, self.layers)
            self._observe(config)
        except UsageError as error:
            raise UsageError(f"{what} is not supported: {error}") from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's code that is not made to be run this way may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"{what} is not supported: its own code raises {reason}") from error

    # ---- a pass

    @torch.inference_mode()
    def run(
        self, visit: Visit, inputs: Inputs, cache: KVCache, first: int = 0, entering_BTW: Tensor | None = None
    ) -> Tensor:
        """Run the model's stack of layers, and return what goes into its head, (B, T, H).

        Layers before `first` are left out, and `entering_BTW` is the residual stream that enters it.
        """
        (n_rows, n_tokens), first_device = inputs.token_BT.shape, self.first_device
        cache.begin(n_rows, inputs.seen_BC.shape[1] - n_tokens, n_tokens)
        where = {"position_ids": inputs.position_BT.to(first_device)} if self.takes_positions else {}
        with _set(self.running, _Running(visit, cache, first, entering_BTW)), _set(_whole_masks, True):
            output: Any = self.visited(
                input_ids=inputs.token_BT.to(first_device), attention_mask=inputs.seen_BC.to(first_device),
                cache=cache, use_cache=True, **where,
            )  # fmt: skip
        ready_BTH: Tensor = output[0]
        return ready_BTH.to(self.device)

    def _at(self, index: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        running = self.running.get()
        if index < running.first:
            after = hidden_states
        else:
            if index == running.first and running.entering is not None:
                hidden_states = running.entering
            after = running.visit(Layer(self, index, args, kwargs), hidden_states)
        return (after, *[None] * (self.n_outputs - 1)) if self.n_outputs else after

    # ---- reading

    def normed(self, hidden_BW: Tensor) -> Tensor:
        """Return the head's input for a residual stream, (B, H): after final norm and, if there is one, projection."""
        return _through(self.after_layers, hidden_BW, self.device)

    def unnormed(self, hidden_BW: Tensor) -> Tensor:
        """Return the head's input for a stream that has been normed, (B, H): after the projection, if there is one."""
        projections = [each for each in self.after_layers if "norm" not in type(each).__name__.lower()]
        return _through(projections, hidden_BW, self.device)

    def head(self, ready_BH: Tensor) -> Tensor:
        """Return the logits, (B, V), of an input of the head, with the model's scaling and soft-cap."""
        logits_BTV: Tensor = self.head_alone(inputs_embeds=ready_BH[:, None], use_cache=False).logits
        return logits_BTV[:, 0]

    def read(self, hidden_BW: Tensor) -> Tensor:
        """Return the logits, (B, V), of a residual stream, as the model itself reads it after its last layer."""
        return self.head(self.normed(hidden_BW))

    # ---- what is known of the model

    def context_of(self, n_prompt: int) -> int | None:
        """Return how many tokens a row may have whose prompt has `n_prompt`; None without a limit.

        If rotary angles switch at a length, a row that begins before the switch ends there.
        """
        return self.switch if self.switch is not None and n_prompt <= self.switch else self.context

    def device_of(self, layer: int) -> torch.device:
        """Return the device that a layer runs on."""
        return self.devices[layer]

    def cache(self, n_slots: int, length: int) -> KVCache:
        """Make room for the keys and values of `n_slots` rows of up to `length` tokens."""
        return KVCache(self.n_layers, n_slots, length, grows=self.device.type == "cpu")

    # ---- observing it once

    @torch.inference_mode()
    def _observe(self, config: Any) -> None:
        """Find what follows the layers, and check that visiting them changes nothing."""
        self.n_outputs, self.takes_masks = 0, True
        texts = _texts(self.vocabulary, self.context)
        alone = Inputs.of(texts[-1:], self.device)
        with _set(_whole_masks, True):
            own_TV = self._own_logits(alone)
            self.after_layers = self._find_ends(alone)
        self._visit_each(alone, own_TV)
        self.windows = self._windows(config)
        self._check_padding(texts, own_TV[-2:].float())

    def _own_logits(self, inputs: Inputs) -> Tensor:
        """What the model itself says, (T, V)."""
        output: Any = self.model(input_ids=inputs.token_BT, attention_mask=inputs.seen_BC.long(), use_cache=False)
        logits_1TV: Tensor = output.logits
        return logits_1TV[0].to(self.device)

    def _find_ends(self, inputs: Inputs) -> Sequence[nn.Module]:
        """The modules that run after the layers; notes what layers return."""
        ran: list[nn.Module] = []

        def at_layer(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
            ran.clear()
            output = layer(*args, **kwargs)
            self.n_outputs = len(output) if isinstance(output, tuple | list) else 0
            return output

        def at_child(child: nn.Module, *args: Any, **kwargs: Any) -> Any:
            ran.append(child)
            return child(*args, **kwargs)

        stack = graft(self.stack, self.name, [StandIn(layer, partial(at_layer, layer)) for layer in self.layers])
        for name, child in self.stack.named_children():
            if not isinstance(child, nn.ModuleList):
                stack = graft(stack, name, StandIn(child, partial(at_child, child)))
        at = self.first_device
        stack(input_ids=inputs.token_BT.to(at), attention_mask=inputs.seen_BC.long().to(at), use_cache=False)
        return ran

    def _visit_each(self, inputs: Inputs, own_TV: Tensor) -> None:
        """Find each layer's keys alone. Layers run once each, in order, and the model says the same when visited.

        While a layer runs, the cache claims to be as long as the model's context, since it may hold padding.
        """
        n_tokens = inputs.token_BT.shape[1]
        cache = _ClaimingCache(self.n_layers, 1, n_tokens)
        self.for_keys: list[KeysAlone] = []
        after_BTW = own_TV

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            nonlocal after_BTW
            if layer.index != len(self.for_keys):
                raise UsageError(f"its layers don't run once each, in order: layer {layer.index} comes after others")
            if (mask := layer.mask) is None or mask[0, 0, -1, -1] != (mask.dtype == torch.bool):
                self.takes_masks = False  # the last token doesn't see itself by it: `True` hides, as in MPT
            cache.claimed = (self.context or FAR_POSITION) - 1
            after_BTW, held = layer.run(hidden_BTW), cache.columns[layer.index]
            if not held.is_initialized:
                raise UsageError(f"layer {layer.index} keeps no keys and values per position")

            def written(alone: KeysAlone) -> list[Tensor]:
                held.keys.zero_(), held.values.zero_()
                alone.write(cache, hidden_BTW, layer.args, layer.kwargs)
                return [held.keys.clone(), held.values.clone()]

            expected = [held.keys.clone(), held.values.clone()]
            self.for_keys.append(without_queries(self.layers[layer.index], expected, written))
            cache.claimed = None
            return after_BTW

        ready_TH = self.run(visit, inputs, cache)[0]
        self.head_alone = self._find_head(ready_TH)
        visited_TV = self.head(ready_TH)
        self.width: int = after_BTW.shape[-1]
        if len(self.for_keys) < self.n_layers:
            raise UsageError(f"{len(self.for_keys)} of its {self.n_layers} layers run")
        if not torch.equal(visited_TV, own_TV):
            why = ": it takes positions from the length of the cache" if cache.asked else ""
            raise UsageError(f"its logits are others when its layers are visited{why}")
        if not torch.equal(self.read(after_BTW.to(self.device)[0]), own_TV):
            raise UsageError("its logits don't follow from the residual stream after its last layer")

    def _find_head(self, ready_TH: Tensor) -> Any:
        """The model without its stack of layers, or without the module around it if that changes the embeddings."""
        for path in (self.path, self.path.partition(".")[0]):
            self.head_alone = graft(self.model, path, StandIn(self.model.get_submodule(path), _echo))
            with suppress(Exception):  # a model's code may raise anything
                self.head(ready_TH)
                break
        return self.head_alone

    def _windows(self, config: Any) -> list[int | None]:
        """How many tokens each layer attends to, the own one included, by its mask far into a text; None for all."""
        named = [kwargs.get("sliding_window") for kwargs in get_layer_types_and_kwargs(config)[1]]
        farthest, found = max((window for window in named if window), default=0) + 2, list[int | None]()

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            window = named[layer.index]
            if (mask := layer.mask) is not None:
                n_seen = int((mask if mask.dtype == torch.bool else mask == 0).sum())
                if window is not None and n_seen != window and (self.context is None or window < self.context):
                    raise UsageError(f"layer {layer.index} has a window of {window} tokens that its masks don't have")
                window = n_seen if n_seen < farthest else None
            found.append(window)
            return hidden_BTW

        if farthest == 2:
            return named
        one = torch.ones(1, 1, dtype=torch.long, device=self.device)
        far = Inputs(one, one * (farthest - 1), one.expand(1, farthest).bool())
        self.run(visit, far, self.cache(1, farthest))
        return found

    def _check_padding(self, texts: Sequence[Sequence[int]], own_2V: Tensor) -> None:
        """The last row, padded beside longer ones, says what the model itself says of its last two tokens."""
        cache = self.cache(len(texts), len(texts[0]))
        off = _distance(self._last_two(texts, cache, run_whole)[-1], own_2V)
        self.cache_shapes = [(part.keys.shape[1::2], part.values.shape[1::2]) for part in cache.columns]
        numbers = sum(shape[0] * shape[1] for shapes in self.cache_shapes for shape in shapes)
        self.cache_bytes_per_token: int = numbers * self.dtype.itemsize
        if not off <= TOLERANCE[self.dtype] and not off <= BEYOND_ROUNDING * self._moved_by_rounding(texts[-1]):
            why = "" if self.takes_positions else "; it takes no position_ids"
            raise UsageError(f"a row beside a longer one is {off:.1%} off what it says alone{why}")

    def _moved_by_rounding(self, text: Sequence[int]) -> float:
        """How far logits are from one another if rounding nudges the residual stream before every layer.

        Nudges may make a mixture of experts choose other ones.
        """
        generator = torch.Generator().manual_seed(0)

        def visit(layer: Layer, hidden_BTW: Tensor) -> Tensor:
            noise = torch.rand(hidden_BTW.shape, generator=generator).to(hidden_BTW) * 2 - 1
            return layer.run(hidden_BTW * (1 + torch.finfo(self.dtype).eps * noise))

        first_2V, *others = self._last_two([text] * N_NUDGED, self.cache(N_NUDGED, len(text)), visit)
        return max(_distance(other_2V, first_2V) for other_2V in others)

    def _last_two(self, texts: Sequence[Sequence[int]], cache: KVCache, visit: Visit) -> Tensor:
        """The logits behind all but the last token of texts and, in a second pass, behind that one, (B, 2, V)."""
        whole = Inputs.of(texts, self.device)
        end, logits = whole.token_BT.shape[1] - 1, []
        for at in (slice(0, end), slice(end, end + 1)):
            part = Inputs(whole.token_BT[:, at], whole.position_BT[:, at], whole.seen_BC[:, : at.stop])
            logits.append(self.head(self.run(visit, part, cache)[:, -1]).float())
        return torch.stack(logits, 1)


class _ClaimingCache(KVCache):
    """A cache that may claim another length than it has, and notes if it is asked for it then."""

    claimed: int | None = None
    asked = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if self.claimed is None:
            return super().get_seq_length(layer_idx)
        self.asked = True
        return self.claimed


def _texts(vocabulary: int, context: int | None) -> list[list[int]]:
    """Texts of CHECKED_TOKENS, from the middle of the vocabulary: tokens that mean something are at its ends."""
    lengths = [min(length, (context or length + 1) - 1) for length in CHECKED_TOKENS]
    return [[vocabulary // 4 + 7919 * (at + length) % (vocabulary // 2) for at in range(length)] for length in lengths]


def _distance(logits: Tensor, other: Tensor) -> float:
    """How far logits are from others, (…, V), relative to their size: the farthest."""
    return float(((logits - other).norm(dim=-1) / other.norm(dim=-1)).max())


def configs_of(stack: nn.Module) -> list[PreTrainedConfig]:
    """Return the configurations that the modules of a stack read, each once."""
    named = (getattr(module, "config", None) for module in stack.modules())
    return list({id(config): config for config in named if isinstance(config, PreTrainedConfig)}.values())


class _StackOutput(BaseModelOutputWithPast):
    """The output of a stack of layers. Whatever else a model looks for in it, such as router logits, is None."""

    def __getattr__(self, name: str) -> None:
        return None


def _echo(*_: object, inputs_embeds: Tensor, **__: object) -> _StackOutput:
    """In place of the stack of layers: its input embeddings as the last hidden state."""
    return _StackOutput(last_hidden_state=inputs_embeds)


def _through(modules: Sequence[nn.Module], hidden_BW: Tensor, device: torch.device) -> Tensor:
    hidden_BTW = hidden_BW[:, None]
    for module in modules:
        hidden_BTW = module(hidden_BTW)
    return hidden_BTW[:, 0].to(device)


@contextmanager
def _set(variable: ContextVar[Any], value: object) -> Iterator[None]:
    """A context in which this thread sees a variable with this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def context_of(config: Any) -> int | None:
    """Return the number of positions that a model has; None without a limit."""
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions"))
    return next((length for length in named if length), None)


def switch_length(config: Any) -> int | None:
    """Return the number of tokens beyond which a model has its long rotary factors; None without LongRoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    lengths = [
        each["original_max_position_embeddings"] for each in by_layer_type if each.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)
