"""Unit costs of a model's parts: the matrix products of one token's pass, counted operator by operator.

The product of a vector of length n with an n × m matrix costs n·m multiply-adds. Norms, activations and softmax cost
nothing. Experts are counted where they run, even if their outputs are multiplied by zero: Llama 4 runs all of them for
every token. Quantised weights cost as much as the weights that they stand for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eexit.decode.costs import LOOKS, UnitCosts
from eexit.decode.predictors import LMHead, predictors
from eexit.decode.requests import DecodingConfig
from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS
from eexit.method.rules import LayerView
from eexit.model.layers import Decoder, ForwardInputs, Layer
from eexit.model.product_counter import ProductCounter
from eexit.model.quantization import weight_bytes


@torch.inference_mode()
def find_prices(decoder: Decoder, decoding: DecodingConfig) -> UnitCosts:
    """Return the unit costs of a model's parts, from passes of one token that attends to one position and to two.

    Raises:
        UsageError: For a model whose costs with one and with two positions contradict each other.
    """
    counter = ProductCounter()
    counted = counter.watching(decoder)
    with counter:
        hidden_1D, at_one_L, embedding = _price_layers(counted, counter, 1)
        _, at_two_L, _ = _price_layers(counted, counter, 2)
        keys_L, mapped_LL = _price_keys(counted, counter, decoding)
        look_XK = _price_reads(counted, counter, decoding, hidden_1D)
    head = decoder.head_alone.get_output_embeddings()
    prices = UnitCosts(
        embedding=embedding,
        layer_L=2 * at_one_L - at_two_L,
        keys_L=keys_L,
        position_L=at_two_L - at_one_L,
        look_XK=look_XK,
        window_L=tuple(decoder.windows),
        mapped_LL=mapped_LL if decoding.kv_maps else None,
        weight_bytes_L=np.array([weight_bytes(layer) for layer in decoder.layers]),
        head_weight_bytes=0 if head is None else weight_bytes(head),
    )
    _refuse_impossible(prices)
    return prices


def _refuse_impossible(prices: UnitCosts) -> None:
    """Raise `UsageError` for costs below zero, or costs of keys and values alone above the whole layer's."""
    counts = {
        "what runs before layer 0": np.array([prices.embedding]), "layer": prices.layer_L, "keys and values of layer":
        prices.keys_L, "a position in layer": prices.position_L, "a read at exitable layer": prices.look_XK.min(1),
    }  # fmt: skip
    for part, count in counts.items():
        if (count < 0).any():
            at = int(count.argmin())
            raise UsageError(f"multiply-adds can't be counted: {part} {at} would have {count[at]}")
    if (prices.keys_L > (whole_L := prices.layer_L + prices.position_L)).any():
        at = int((prices.keys_L - whole_L).argmax())
        raise UsageError(
            f"multiply-adds can't be counted: keys and values alone of layer {at} have {prices.keys_L[at]}, and all of "
            f"the layer {whole_L[at]}"
        )


def _token(decoder: Decoder, n_positions: int) -> ForwardInputs:
    """Return a token that attends to `n_positions` positions, its own included."""
    one_11 = torch.ones(1, 1, dtype=torch.long, device=decoder.device)
    return ForwardInputs(one_11, one_11 * (n_positions - 1), one_11.bool().expand(1, n_positions))


def _price_layers(decoder: Decoder, counter: ProductCounter, n_positions: int) -> tuple[Tensor, np.ndarray, int]:
    """Run a token through the layers.

    Returns the hidden state after the last layer, (1, D), and the multiply-adds of each layer, (L,), and of what runs
    before layer 0.
    """
    costs, hidden_1D = list[int](), torch.empty(0)

    def visit(layer: Layer, hidden_11D: Tensor) -> Tensor:
        nonlocal hidden_1D
        after_11D: Tensor
        after_11D, cost = counter.count(layer.run, hidden_11D)
        costs.append(cost)
        hidden_1D = after_11D[0].to(decoder.device)
        return after_11D

    _, whole = counter.count(decoder.run, visit, _token(decoder, n_positions), decoder.cache(1, n_positions))
    _, after_layers = counter.count(decoder.head_input, hidden_1D)  # a part of the model's own pass
    return hidden_1D, np.array(costs), whole - sum(costs) - after_layers


def _price_keys(decoder: Decoder, counter: ProductCounter, decoding: DecodingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiply-adds of keys and values alone: a layer's, (L,), and KV maps', by exit layer too, (L, L)."""
    keys_L, maps = np.zeros(decoder.n_layers, np.int64), decoding.kv_maps
    mapped_LL = np.zeros((decoder.n_layers, decoder.n_layers), np.int64)

    def visit(layer: Layer, hidden_11D: Tensor) -> Tensor:
        keys_L[layer.index] = mapped_LL[:, layer.index] = counter.count(layer.write_keys, hidden_11D)[1]
        for (exit_layer, index), of_layer in maps.of_layers.items() if maps else ():
            if index == layer.index:
                mapped_LL[exit_layer, index] = counter.count(write, layer, hidden_11D, of_layer)[1]
        return hidden_11D

    def write(layer: Layer, hidden_11D: Tensor, of_layer: Sequence[Callable[[Tensor], Tensor]]) -> None:
        if maps and maps.form == KEYS:
            layer.write_keys(hidden_11D, [partial(_instead, each) for each in of_layer])
        else:
            hidden_11D = hidden_11D.to(decoder.devices[layer.index])
            layer.write_keys(hidden_11D + of_layer[0](hidden_11D))

    decoder.run(visit, _token(decoder, 1), decoder.cache(1, 1))
    return keys_L, mapped_LL


def _instead(project: Callable[[Tensor], Tensor], projection: object, input_11F: Tensor) -> Tensor:
    """Apply a map in place of a layer's projection."""
    return project(input_11F)


def _price_reads(decoder: Decoder, counter: ProductCounter, decoding: DecodingConfig, hidden_1D: Tensor) -> np.ndarray:
    """Return the multiply-adds of reads, (X, K); probe and gate read no final layer."""
    head, final, gate = LMHead(decoder, decoding), decoder.n_layers - 1, decoding.gate
    costs_X: list[dict[str, int]] = []
    predict: dict[str, Callable[[LayerView, None], Any]] = {**predictors(head)}
    predict["head_reads"] = lambda view, _: decoder.lm_head(
        head.head_input(view.hidden_out, view.index)
    )  # no comparison
    for layer in (*decoding.exitable_layers, final):
        view = LayerView(layer, hidden_out=hidden_1D, parameter=torch.ones_like(hidden_1D[:, 0]))
        names = [name for name in predict if layer != final or name != "probe_reads"]
        costs = {name: counter.count(predict[name], view, None)[1] for name in names}
        if gate and layer != final:
            costs["gate_reads"] = counter.count(gate.chance, hidden_1D, layer, gate.rules[0])[1]
        costs_X.append(costs)
    return np.array([[costs.get(name, 0) for name in LOOKS] for costs in costs_X])
