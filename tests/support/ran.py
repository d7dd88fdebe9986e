"""Counts of what steps really run, by hooks on the model's modules and by torch's formulas for products."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from references import unit_costs_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from traces import traces_of

from eexit.costs.operations import OpCounts, cost_columns
from eexit.decode.batch import Batch
from eexit.decode.draft import DraftBatch
from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer


@cache
def ends_of(decoder: Decoder) -> list[tuple[nn.Module, nn.Module]]:
    """Return two modules per layer: the first that runs for keys and values alone, too, and the last that doesn't."""
    inputs, found = ForwardInputs.from_texts([[1, 2]], decoder.device), []

    def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
        called: list[nn.Module] = []

        def note(module: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor) and given[0].shape[:-1] == hidden_BTW.shape[:-1]:
                called.append(module)

        leaves = [each for each in decoder.layers[layer.index].modules() if not [*each.children()]]
        handles = [each.register_forward_pre_hook(note) for each in leaves]
        layer.write_keys(hidden_BTW)
        of_keys = list(called)
        after_BTW = layer.run(hidden_BTW)
        found.append((of_keys[0], [each for each in called if each not in of_keys][-1]))
        for handle in handles:
            handle.remove()
        return after_BTW

    decoder.run(visit, inputs, decoder.cache(1, 2))
    return found


class OpRecorder:
    """Numbers of tokens per layer and for the head, and multiply-adds of products outside torch's attention, in steps.

    Prefills without exits and observation are left out. `begun_L` and `ended_L` are the tokens for which each layer
    began and ended. `calls_L` is how often each layer ended, for any number of tokens.
    """

    def __init__(self, decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
        self.decoder, self.products = decoder, Products()
        self.begun_L, self.ended_L, self.calls_L = np.zeros((3, decoder.n_layers), np.int64)
        self.reads = 0
        for kind in (Batch, DraftBatch):
            for name in ("step", "_exit_in_prompt"):
                monkeypatch.setattr(kind, name, self._watched(getattr(kind, name)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            with self.watching():
                return method(*args)

        return watched

    @contextmanager
    def watching(self) -> Iterator[None]:
        def count(layer: int, counts_L: np.ndarray, _: nn.Module, given: tuple[Any, ...]) -> None:
            counts_L[layer] += prod(given[0].shape[:-1])
            self.calls_L[layer] += counts_L is self.ended_L

        def read(_: nn.Module, given: tuple[Any, ...]) -> None:
            self.reads += prod(given[0].shape[:-1])

        head: Any = self.decoder.model.get_output_embeddings()
        handles = [head.register_forward_pre_hook(read)]
        for layer, ends in enumerate(ends_of(self.decoder)):
            for module, counts_L in zip(ends, (self.begun_L, self.ended_L), strict=True):
                handles.append(module.register_forward_pre_hook(partial(count, layer, counts_L)))
        with ExitStack() as stack:
            for handle in handles:
                stack.callback(handle.remove)
            stack.enter_context(self.products)
            yield


class Products(TorchDispatchMode):
    """Mode that counts multiply-adds like torch's `FlopCounterMode`, which takes several times as long.

    Torch's own attention is left out, or counted by its math backend.
    """

    def __init__(self, with_attention: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.with_attention, self.multiply_adds = with_attention, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and checking that at each operator takes time

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, flops = kwargs or {}, flop_registry.get(function.overloadpacket)
        if function is torch.ops.aten.scaled_dot_product_attention.default and not self.with_attention:
            return function(*args, **kwargs)
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


@dataclass(frozen=True)
class RanAlone:
    """An output that was generated alone, its operation counts and columns, and what the hooks counted."""

    trace: RequestOutput
    counts: OpCounts
    ran: OpRecorder
    columns: Mapping[str, Any]


def run_alone(decoder: Decoder, decoding: DecodingConfig, request: Request, priced: bool = False) -> RanAlone:
    """Generate one request alone, and assert that layers, layers' keys and head reads ran as often as its counts state.

    With `priced`, for models with torch's attention: assert that the multiply-adds are its costs without attention.
    """
    with pytest.MonkeyPatch.context() as patch:
        ran = OpRecorder(decoder, patch)
        [trace] = traces_of(Engine(decoder, decoding).generate([request])).values()
    assert trace.counts is not None
    counts, layer_L = trace.counts, np.arange(decoder.n_layers)
    layers_T1, keys_T1 = counts.layers_T[:, None], counts.kv_layers_T[:, None]
    assert ran.ended_L.tolist() == (layer_L < layers_T1).sum(0).tolist()
    written = (layer_L >= layers_T1) & (layer_L < layers_T1 + keys_T1)
    assert (ran.begun_L - ran.ended_L).tolist() == written.sum(0).tolist()
    assert ran.reads == counts.reads_TX("head_reads").sum()
    unit_costs, exit_T = unit_costs_of(decoder, decoding), trace.decided_exit_layer_T
    n_prompt, mode = len(request.prompt_token_ids), request.configuration.mode
    of_run = counts, exit_T, decoding.exitable_layers, mode, n_prompt, trace.prompt
    if priced:
        without_attention = replace(unit_costs, position_L=0 * unit_costs.position_L)
        assert cost_columns(without_attention, *of_run)["macs_executed"] == ran.products.multiply_adds
    return RanAlone(trace, counts, ran, cost_columns(unit_costs, *of_run))
