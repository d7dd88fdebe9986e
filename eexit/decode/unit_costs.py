"""What the parts of a model cost: their matrix products, counted by torch's flop counter while one token runs.

The product of a vector of length n with an n × m matrix costs n·m multiply-adds, half of what the counter calls flops.
Norms, activations and softmax are not products, and are left out, as the counter leaves them out. Experts are counted
where they are run, even if their outputs are multiplied by zero: Llama 4 runs all of them for every token. Quantised
weights cost the multiply-adds of those that they stand for; that they take fewer bytes, `weight_bytes_L` says.

What layers compute for each position that a token attends to is found by running them with one and with two positions.

Shapes: W width of the residual stream, L layers, E exitable layers, X = E + 1, K kinds of looks.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from eexit.decode.costs import LOOKS, Prices
from eexit.decode.predictors import LMHead, predictors
from eexit.decode.requests import Decoding
from eexit.method.rules import Look
from eexit.method.state_maps import KEYS
from eexit.model.layers import Decoder, Inputs, Layer
from eexit.model.quantization import weight_bytes


@torch.inference_mode()
def find_prices(decoder: Decoder, decoding: Decoding) -> Prices:
    """Run a single token through the parts of a model, three times in all, and count what they cost."""
    with sdpa_kernel(SDPBackend.MATH):  # whose products the counter sees on every device
        hidden_1W, at_one_L, before = _price_layers(decoder, 1)
        _, at_two_L, _ = _price_layers(decoder, 2)
        keys_L, mapped_LL = _price_keys(decoder, decoding)
        look_XK = _price_looks(decoder, decoding, hidden_1W)
    head = decoder.head_alone.get_output_embeddings()
    return Prices(
        before=before,
        layer_L=2 * at_one_L - at_two_L,
        keys_L=keys_L,
        position_L=at_two_L - at_one_L,
        look_XK=look_XK,
        window_L=tuple(decoder.windows),
        mapped_LL=mapped_LL if decoding.state_maps else None,
        weight_bytes_L=np.array([weight_bytes(layer) for layer in decoder.layers]),
        head_weight_bytes=0 if head is None else weight_bytes(head),
    )


def _token(decoder: Decoder, n_positions: int) -> Inputs:
    """Return a token that has `n_positions` positions to attend to, its own included."""
    one_11 = torch.ones(1, 1, dtype=torch.long, device=decoder.device)
    return Inputs(one_11, one_11 * (n_positions - 1), one_11.bool().expand(1, n_positions))


def _price_layers(decoder: Decoder, n_positions: int) -> tuple[Tensor, np.ndarray, int]:
    """Run a token through the layers and count multiply-adds.

    Returns its residual stream after the last layer, (1, W), and the multiply-adds of each layer, (L,), and of what
    runs before layer 0.
    """
    of_layer: list[int] = []
    streams: list[Tensor] = []

    def visit(layer: Layer, hidden_11W: Tensor) -> Tensor:
        after_11W: Tensor
        after_11W, multiply_adds = _counted(layer.run, hidden_11W)
        of_layer.append(multiply_adds)
        streams[:] = [after_11W[0].to(decoder.device)]
        return after_11W

    cache = decoder.cache(1, n_positions)
    _, whole = _counted(decoder.run, visit, _token(decoder, n_positions), cache)
    _, after_layers = _counted(decoder.normed, streams[0])  # which runs in the model's own pass, too
    return streams[0], np.array(of_layer), whole - sum(of_layer) - after_layers


def _price_keys(decoder: Decoder, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
    """Count the multiply-adds of keys and values alone: of a layer's own, (L,), and of state maps', (L, L).

    The latter are by exit layer and then layer.
    """
    own = np.zeros(decoder.n_layers, np.int64)
    mapped_LL = np.zeros((decoder.n_layers, decoder.n_layers), np.int64)
    maps = decoding.state_maps

    def visit(layer: Layer, hidden_11W: Tensor) -> Tensor:
        own[layer.index] = mapped_LL[:, layer.index] = _counted(layer.write_keys, hidden_11W)[1]
        for (exit_layer, index), of_layer in maps.of_layers.items() if maps else ():
            if index == layer.index:
                mapped_LL[exit_layer, index] = _counted(write, layer, hidden_11W, of_layer)[1]
        return hidden_11W

    def write(layer: Layer, hidden_11W: Tensor, of_layer: Sequence[Callable[[Tensor], Tensor]]) -> None:
        if maps and maps.form == KEYS:
            layer.write_keys(hidden_11W, [partial(_instead, each) for each in of_layer])
        else:
            hidden_11W = hidden_11W.to(decoder.devices[layer.index])
            layer.write_keys(hidden_11W + of_layer[0](hidden_11W))

    decoder.run(visit, _token(decoder, 1), decoder.cache(1, 1))
    return own, mapped_LL


def _instead(project: Callable[[Tensor], Tensor], own: object, given: Tensor) -> Tensor:
    """A map in place of a layer's own projection."""
    return project(given)


def _price_looks(decoder: Decoder, decoding: Decoding, hidden_1W: Tensor) -> np.ndarray:
    """Count the multiply-adds of each of LOOKS, (X, K); probe and gate look at no final layer."""
    prices, final = list[dict[str, int]](), decoder.n_layers - 1
    for layer in (*decoding.exitable_layers, final):
        look = Look(layer, after=hidden_1W, parameter=torch.ones_like(hidden_1W[:, 0]))
        named = predictors(LMHead(decoder, decoding))
        if layer == final:
            named = {name: predict for name, predict in named.items() if name != "probe_reads"}
        price = {name: _counted(predict, look, None)[1] for name, predict in named.items()}
        if decoding.gate and layer != final:
            price["gate_reads"] = _counted(decoding.gate.chance, hidden_1W, layer, decoding.gate.rules[0])[1]
        prices.append(price)
    return np.array([[price.get(name, 0) for name in LOOKS] for price in prices])


def _counted(run: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """Return what a function returns, and how many multiply-adds it took.

    Linear modules of which the counter sees nothing are counted by their shapes: it knows few of the operators by which
    packed and quantised weights are multiplied.
    """
    began: list[int] = []
    uncounted: list[int] = []  # flops

    def begin(module: nn.Module, _: Any) -> None:
        if hasattr(module, "in_features"):
            began.append(counter.get_total_flops() + sum(uncounted))

    def end(module: Any, _: Any, output: Any) -> None:
        if hasattr(module, "in_features") and began.pop() == counter.get_total_flops() + sum(uncounted):
            uncounted.append(2 * output.numel() * module.in_features)

    with FlopCounterMode(display=False, custom_mapping=_other_products()) as counter, ExitStack() as hooks:
        hooks.callback(register_module_forward_pre_hook(begin).remove)
        hooks.callback(register_module_forward_hook(end).remove)
        result = run(*args)
    return result, (counter.get_total_flops() + sum(uncounted)) // 2


def _grouped_flops(input: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of experts: each row of (n_rows, n) is multiplied with one of the matrices (n_experts, n, m)."""
    return 2 * prod(input) * weight[-1]


# Products that torch's counter does not know: namespace and name of their operators. Not every machine has them all.
OTHER_PRODUCTS: Final[dict[tuple[str, str], Callable[..., int]]] = {
    ("aten", "_grouped_mm"): _grouped_flops,
    ("transformers", "grouped_mm_fallback"): _grouped_flops,
}


def _other_products() -> dict[Any, Callable[..., int]]:
    found = {(space, name): getattr(getattr(torch.ops, space), name, None) for space, name in OTHER_PRODUCTS}
    return {operator: OTHER_PRODUCTS[key] for key, operator in found.items() if operator is not None}
