"""What steps without a teacher really run, by hooks on the model's modules and by torch's formulas for products."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from eexit.decode.steps.batch import Batch
from eexit.decode.steps.step import step
from eexit.model.views import CacheView
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from traces import traces_of
from transformers import PreTrainedModel

from eexit.cpu.kernels import AttentionOptions
from eexit.decode import engine, token_pass
from eexit.decode.costs.counting import Counts, Prices, cost_columns
from eexit.decode.engine import Engine
from eexit.decode.prices import find_prices
from eexit.decode.requests import Decoding, Request, Trace
from eexit.model import cache as kv_cache
from eexit.model.layers import Decoder


class Ran:
    """How many tokens each layer was begun and ended for, and how many the head read, in steps without a teacher.

    `calls_L` is how often each layer was ended, for however many tokens.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
        self.model, self.decoder = model, decoder
        self.is_watching = False
        self.begun_L, self.ended_L, self.calls_L = np.zeros((3, decoder.n_layers), np.int64)
        self.reads = 0
        monkeypatch.setattr(engine, "step", self.step)

    def step(self, batch: Batch) -> None:
        with self.watching():
            step(batch)

    @contextmanager
    def watching(self) -> Iterator[None]:
        def begin(layer: int) -> Any:
            def count(_: nn.Module, args: tuple[Any, ...]) -> None:
                self.begun_L[layer] += prod(args[0].shape[:-1])

            return count

        def end(layer: int) -> Any:
            def count(_: nn.Module, args: tuple[Any, ...], __: object) -> None:
                self.ended_L[layer] += prod(args[0].shape[:-1])
                self.calls_L[layer] += 1

            return count

        def read(_: nn.Module, args: tuple[Any, ...]) -> None:
            self.reads += prod(args[0].shape[:-1])

        layers = list(enumerate(self.decoder.layers))
        handles = [layer.register_forward_pre_hook(begin(index)) for index, layer in layers]
        handles += [layer.register_forward_hook(end(index)) for index, layer in layers]
        head: Any = self.model.get_output_embeddings()
        handles.append(head.register_forward_pre_hook(read))
        self.is_watching = True
        try:
            yield
        finally:
            self.is_watching = False
            for handle in handles:
                handle.remove()


class Products(TorchDispatchMode):
    """Counts multiply-adds as torch's `FlopCounterMode` does, which takes several times as long for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.multiply_adds = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so at each operator takes time

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, flops = kwargs or {}, flop_registry.get(function.overloadpacket)
        if flops is None and is_made_of_others(function):
            with self:
                return function.decompose(*args, **kwargs)
        made = function(*args, **kwargs)
        if flops is not None:
            self.multiply_adds += flops(*args, **kwargs, out_val=made) // 2
        return made


@cache
def is_made_of_others(operator: Any) -> bool:
    return bool(operator._can_decompose())


class Multiplied(Ran):
    """Also the multiply-adds, of rows that are alone, with a cache that has no more room than there are positions.

    Our attention is counted by its shapes and masks, since torch's operators compute hidden positions too. Layers that
    attend by themselves, or that expand keys from what they keep, do so for all positions of the row, where costs have
    only those that each token attends to. What runs before the layers is left out, since it also runs, for their
    positions' sake, for tokens that wait.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
        super().__init__(model, decoder, monkeypatch)
        self.counter = Products()
        self.outside = self.attended = 0  # multiply-adds without our attention, and in it
        self.position_L, self.excess_L = np.zeros((2, decoder.n_layers), np.int64)
        attend, update, begin = CacheView.attend, CacheView.update, Decoder.begin

        def watched_begin(decoder: Decoder, token_BT: Tensor, view: CacheView) -> Any:
            before = self.counter.multiply_adds
            begun = begin(decoder, token_BT, view)
            if self.is_watching:
                self.outside -= self.counter.multiply_adds - before
            return begun

        def watched_attend(
            view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
        ) -> Tensor:
            if not self.is_watching:
                return attend(view, query, key, value, options)
            self.position_L[view.layer] = query.shape[1] * (query.shape[-1] + value.shape[-1])
            self.attended += self.position_L[view.layer] * n_attended(view, options.window)
            before = self.counter.multiply_adds
            attended = attend(view, query, key, value, options)
            self.outside -= self.counter.multiply_adds - before
            return attended

        def watched_update(view: CacheView, key: Tensor, value: Tensor, layer_idx: int, **others: Any) -> Any:
            keys_and_values = update(view, key, value, layer_idx, **others)  # raises if it is for keys alone
            if self.is_watching:
                n_computed = keys_and_values[0].shape[0] * keys_and_values[0].shape[2]
                self.excess_L[layer_idx] += n_computed - n_attended(view, window=None)
            return keys_and_values

        monkeypatch.setattr(Decoder, "begin", watched_begin)
        monkeypatch.setattr(CacheView, "attend", watched_attend)
        monkeypatch.setattr(CacheView, "update", watched_update)

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().watching())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # whose products the counter sees
            stack.enter_context(self.counter)
            before = self.counter.multiply_adds
            yield
            self.outside += self.counter.multiply_adds - before

    def multiply_adds(self, prices: Prices) -> int:
        in_layer_L = prices.position_L - self.position_L
        return int(self.outside + self.attended - (in_layer_L * self.excess_L).sum())


def n_attended(view: CacheView, window: int | None) -> int:
    """How many positions a view's tokens attend to, all together."""
    n_positions = 0
    for slot, position in zip(view.slots.tolist(), view.own_position_BT[:, 0].tolist(), strict=True):
        first = 0 if window is None else max(0, position + 1 - window)
        hidden = view.cache.hidden_LNS
        n_hidden = 0 if hidden is None else int(hidden[view.layer, slot, first:position].sum())
        n_positions += position + 1 - first - n_hidden
    return n_positions


@dataclass(frozen=True)
class RanAlone:
    """A row that was generated alone, what was run for it, and the columns that say so."""

    trace: Trace
    counts: Counts
    ran: Ran
    columns: Mapping[str, Any]


def exactly(patch: pytest.MonkeyPatch) -> None:
    """No pass has more rows, and no cache more positions, than are needed."""
    patch.setattr(token_pass, "rounded", lambda n_rows: n_rows)
    patch.setattr(kv_cache, "BLOCK_POSITIONS", 1)


@cache
def prices_alone(decoder: Decoder, decoding: Decoding) -> Prices:
    """Found where no cache has more positions than are needed."""
    return find_prices(decoder, decoding)


def run_alone(
    model: PreTrainedModel, decoder: Decoder, decoding: Decoding, request: Request, student: Decoder | None = None
) -> RanAlone:
    """Generates a row alone. What is run for it costs what its columns say."""
    with pytest.MonkeyPatch.context() as patch:
        exactly(patch)
        prices = replace(prices_alone(decoder, decoding), before=0)
        ran = Multiplied(model, student or decoder, patch)
        [trace] = traces_of(Engine(decoder, decoding, student).generate([request])).values()
    assert trace.counts is not None
    exit_T, layers = trace.exit_layer_T[1:], decoding.exitable_layers
    mode, n_prompt = request.configuration.mode, len(request.prompt_token_ids)
    columns = cost_columns(prices, trace.counts, exit_T, layers, mode, n_prompt)
    assert columns["cost_run"] == ran.multiply_adds(prices)
    return RanAlone(trace, trace.counts, ran, columns)
