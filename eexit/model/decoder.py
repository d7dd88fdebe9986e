"""A transformers decoder taken apart by its structure, so that its layers can be run one at a time, for any rows.

What depends on transformers' internals is here and in the modules that this one imports; no model family is known by
name. The model's own forward runs with its layers replaced by recorders, which shows how each layer is called
(embeddings, positions, rotary angles); then the layers are called the same way, with our cache and attention. Layers
that compute attention themselves, rather than call transformers' attention interface, are called as in a batch that is
padded on the left. The modules between the last layer and the logits are found by observing one forward, and every part
is checked against that forward.

Shapes: B rows, T tokens, W width of the residual stream, H width of what the head takes, V vocabulary.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from eexit.errors import UsageError, first_line
from eexit.model.cache import KVCache
from eexit.model.devices import Spread
from eexit.model.layer_calls import LayerCall, row_axes, switch_length
from eexit.model.layerwise import KeysAlone, StandIn, graft
from eexit.model.support.checked_before import CheckedBefore
from eexit.model.support.far_tokens import far_positions, watch_token_at, windows_of
from eexit.model.support.keys_alone import keys_alone
from eexit.model.support.refusals import (
    cached_windows,
    find_stack,
    refuse_autocast,
    refuse_compiled,
    refuse_unsupported,
    takes,
)
from eexit.model.support.self_attending import check_self_attending
from eexit.model.support.soundness import check
from eexit.model.support.watching import (
    Forward,
    OwnAttention,
    asks_for_attention,
    configs_of,
    watch_row,
)

PROBE_TOKENS: Final = (6, 29)  # lengths of the prompts that a model is observed with


class Decoder(Spread):
    """A transformers model, taken apart, and checked unless it is `known` to have passed that check before.

    Raises `UsageError`, saying what is missing, for a model that can't be run this way.
    """

    def __init__(self, model: PreTrainedModel, known: CheckedBefore | None = None):
        config, what = model.config.get_text_config(decoder=True), type(model).__name__
        began = time.perf_counter()
        try:
            refuse_unsupported(model.config, config)
            refuse_compiled(model)
            refuse_autocast(model.device)
            self.n_layers: int = config.num_hidden_layers
            self.context = context_of(config)
            self.switch = switch_length(config)
            self.vocabulary: int = config.vocab_size
            self.dtype = model.dtype
            path, name = find_stack(model, self.n_layers)
            self._take_apart(model, config, path, name, known)
        except UsageError as error:
            raise UsageError(f"{what} is not supported: {error}") from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's code that is not made to be run this way may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"{what} is not supported: run layer by layer, its own code raises {reason}") from error
        self.check_seconds = time.perf_counter() - began  # which grow with the model

    def _take_apart(
        self, model: PreTrainedModel, config: Any, path: str, name: str, known: CheckedBefore | None
    ) -> None:
        placed = self.place(model, model.get_submodule(path), getattr(model.get_submodule(path), name))
        stack = placed.get_submodule(path)
        self.layers: list[nn.Module] = list(getattr(stack, name))
        self.for_keys = [KeysAlone(layer) for layer in self.layers]
        self.configs = configs_of(stack)
        self.takes_positions = takes(stack, "position_ids")
        self.windows: list[int | None] = [None] * self.n_layers  # tokens that a layer attends to, the own one included
        self._calls: list[tuple[Tensor, LayerCall]] = []
        self.axes: list[LayerCall] = []
        far = far_positions(config, self.context)
        probes = self._probes()
        self.attends_itself = not asks_for_attention(model, self.configs, probes[0][0])
        passed = not self.attends_itself and known is not None and known.passed()
        try:
            if not self.attends_itself:
                rows = self._watch(model, placed, path, name, [probes[0][:1]] if passed else probes)
                tokens_at = [watch_token_at(self, position) for position in far]
                self.windows = windows_of(tokens_at)
                if not passed:
                    check(self, rows, tokens_at)
        except OwnAttention:
            self.attends_itself = True
        if self.attends_itself:
            rows = self._watch(model, placed, path, name, probes)
            check_self_attending(self, rows, far)
        self._require_windows(cached_windows(config), far[-1])
        self.for_keys = keys_alone(self, rows[0][0].entering_1TW)
        cache = self._one_position()
        self.cache_bytes_per_token = cache.n_bytes
        held = (cache.part_of(layer).held(layer) for layer in range(self.n_layers))
        self.cache_shapes = [tuple(part.shape for part in parts) for parts in held]
        if known is not None and not (passed or self.attends_itself):
            known.keep()

    def _watch(
        self, model: PreTrainedModel, placed: Any, path: str, name: str, probes: Sequence[Sequence[Tensor]]
    ) -> list[list[Forward]]:
        """Observe the unmodified model on some rows, to find how it calls its layers and what follows them."""
        stack = model.get_submodule(path)
        layers = list(getattr(stack, name))
        rows = [watch_row(model, stack, layers, parts, self.attends_itself) for parts in probes]
        watched = rows[0][0]
        self.after_layers = self.at_head(watched.after_layers)
        self.width = watched.leaving_1TW[-1].shape[-1]  # of the residual stream
        self.projections = [module for module in self.after_layers if "norm" not in type(module).__name__.lower()]
        calls, returns_tuple = self._calls, watched.returns_tuple  # no more is kept

        def record(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor]:
            calls.append((hidden_states, LayerCall(args, kwargs)))
            return (hidden_states,) if returns_tuple else hidden_states

        self._embedder = graft(placed.get_submodule(path), name, [StandIn(layer, record) for layer in self.layers])
        self.head_alone = self._find_head(placed, path, watched.leaving_1TW[-1][0])
        self.axes = self._find_rows()
        return rows

    @torch.inference_mode()
    def _find_head(self, model: PreTrainedModel, path: str, hidden_TW: Tensor) -> Any:
        """The model without its stack of layers, or without the module around it if that changes the embeddings."""
        holder = path.partition(".")[0]
        try:
            self.head_alone = graft(model, path, StandIn(model.get_submodule(path), _echo))
            self.read(hidden_TW)
            return self.head_alone
        except Exception:  # as above
            return graft(model, holder, StandIn(model.get_submodule(holder), _echo))

    def _require_windows(self, cached: Sequence[int | None], farthest: int) -> None:
        """Our cache drops nothing, so that windows must be in the masks, not only in what transformers' cache drops."""
        for layer, (held, window) in enumerate(zip(cached, self.windows, strict=True)):
            if held is not None and held <= farthest and held != window:
                raise UsageError(f"layer {layer} has a window of {held} tokens that its masks don't have")

    def _probes(self) -> list[list[Tensor]]:
        """Rows of different lengths to observe the model with: each is a prompt and one token behind it."""
        lengths = [min(n, (self.context or n + 1) - 1) + 1 for n in PROBE_TOKENS]
        token_T = torch.arange(1, sum(lengths) + 1, device=self.device) % self.vocabulary
        return [[token_1T[None, :-1], token_1T[None, -1:]] for token_1T in token_T.split(lengths)]

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


class _StackOutput(BaseModelOutputWithPast):
    """The output of a stack of layers. Whatever else a model looks for in it, such as router logits, is None."""

    def __getattr__(self, name: str) -> None:
        return None


def _echo(*_: object, inputs_embeds: Tensor, **__: object) -> _StackOutput:
    """In place of the stack of layers: its input embeddings as the last hidden state."""
    return _StackOutput(last_hidden_state=inputs_embeds)


def context_of(config: Any) -> int | None:
    """The number of positions that a model has; None without a limit."""
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions"))
    return next((length for length in named if length), None)
