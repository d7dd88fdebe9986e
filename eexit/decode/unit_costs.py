"""Unit costs of a model's parts: the matrix products of one token's pass, counted operator by operator.

The product of a vector of length n with an n × m matrix costs n·m multiply-adds. Norms, activations and softmax are
not products, and cost nothing. Experts are counted where they are run, even if their outputs are multiplied by zero:
Llama 4 runs all of them for every token. Quantised weights cost the multiply-adds of the weights that they stand for;
`weight_bytes_L` has the fewer bytes.

What layers compute for each position that a token attends to is found by running them with one and with two positions.

Shapes: W width of a hidden state, L layers, E exitable layers, X = E + 1, K kinds of looks.
"""

from collections.abc import Callable, Sequence
from functools import partial

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
    """Return the unit costs of a model's parts, from three passes of a single token.

    Raises:
        UsageError: For a model whose costs with one and with two positions contradict each other.
    """
    counter = ProductCounter()
    counted = counter.watching(decoder)
    with counter:
        hidden_1W, at_one_L, before = _price_layers(counted, counter, 1)
        _, at_two_L, _ = _price_layers(counted, counter, 2)
        keys_L, mapped_LL = _price_keys(counted, counter, decoding)
        look_XK = _price_looks(counted, counter, decoding, hidden_1W)
    head = decoder.head_alone.get_output_embeddings()
    prices = UnitCosts(
        embedding=before,
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
    """Raise `UsageError` for costs that no pass can have: below zero, or of keys alone above the whole layer's."""
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
    """Return a token that has `n_positions` positions to attend to, its own included."""
    one_11 = torch.ones(1, 1, dtype=torch.long, device=decoder.device)
    return ForwardInputs(one_11, one_11 * (n_positions - 1), one_11.bool().expand(1, n_positions))


def _price_layers(decoder: Decoder, counter: ProductCounter, n_positions: int) -> tuple[Tensor, np.ndarray, int]:
    """Run a token through the layers and count multiply-adds.

    Returns its hidden state after the last layer, (1, W), and the multiply-adds of each layer, (L,), and of what
    runs before layer 0.
    """
    of_layer: list[int] = []
    streams: list[Tensor] = []

    def visit(layer: Layer, hidden_11W: Tensor) -> Tensor:
        after_11W: Tensor
        after_11W, multiply_adds = counter.count(layer.run, hidden_11W)
        of_layer.append(multiply_adds)
        streams[:] = [after_11W[0].to(decoder.device)]
        return after_11W

    cache = decoder.cache(1, n_positions)
    _, whole = counter.count(decoder.run, visit, _token(decoder, n_positions), cache)
    _, after_layers = counter.count(decoder.head_input, streams[0])  # which runs in the model's own pass, too
    return streams[0], np.array(of_layer), whole - sum(of_layer) - after_layers


def _price_keys(decoder: Decoder, counter: ProductCounter, decoding: DecodingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Count the multiply-adds of keys and values alone: of a layer's own, (L,), and of KV maps', (L, L).

    The latter are by exit layer and then layer.
    """
    own = np.zeros(decoder.n_layers, np.int64)
    mapped_LL = np.zeros((decoder.n_layers, decoder.n_layers), np.int64)
    maps = decoding.kv_maps

    def visit(layer: Layer, hidden_11W: Tensor) -> Tensor:
        own[layer.index] = mapped_LL[:, layer.index] = counter.count(layer.write_keys, hidden_11W)[1]
        for (exit_layer, index), of_layer in maps.of_layers.items() if maps else ():
            if index == layer.index:
                mapped_LL[exit_layer, index] = counter.count(write, layer, hidden_11W, of_layer)[1]
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


def _price_looks(decoder: Decoder, counter: ProductCounter, decoding: DecodingConfig, hidden_1W: Tensor) -> np.ndarray:
    """Count the multiply-adds of each of LOOKS, (X, K); probe and gate predict at no final layer."""
    final, head, prices = decoder.n_layers - 1, LMHead(decoder, decoding), list[dict[str, int]]()
    predict: dict[str, Callable[[LayerView, None], object]] = {**predictors(head)}
    predict["head_reads"] = lambda look, _: decoder.lm_head(
        head.head_input(look.hidden_out, look.index)
    )  # without comparing
    for layer in (*decoding.exitable_layers, final):
        look = LayerView(layer, hidden_out=hidden_1W, parameter=torch.ones_like(hidden_1W[:, 0]))
        names = [name for name in predict if layer != final or name != "probe_reads"]
        price = {name: counter.count(predict[name], look, None)[1] for name in names}
        if decoding.gate and layer != final:
            price["gate_reads"] = counter.count(decoding.gate.chance, hidden_1W, layer, decoding.gate.rules[0])[1]
        prices.append(price)
    return np.array([[price.get(name, 0) for name in LOOKS] for price in prices])
