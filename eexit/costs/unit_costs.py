"""Unit costs of a model's parts: the matrix products of one token's pass, counted operator by operator.

The product of a vector of length n with an n × m matrix costs n·m multiply-adds. Norms, activations and softmax cost
nothing. Experts are counted where they run, even if their outputs are multiplied by zero: Llama 4 runs all of them for
every token. Quantised weights cost as much as the weights that they stand for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eexit.costs.operations import READS, UnitCosts
from eexit.costs.product_counter import ProductCounter
from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, KVMaps
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer
from eexit.model.quantization import weight_bytes

Reads = Mapping[str, Callable[[Tensor], object]]  # by column of READS: what reads a hidden state (1, D)


@torch.inference_mode()
def count_unit_costs(
    decoder: Decoder, reads_of: Callable[[Decoder], Sequence[Reads]], kv_maps: KVMaps | None
) -> UnitCosts:
    """Return the unit costs of a model's parts, counted in two passes of a token, over one and two positions.

    `reads_of` returns a decoder's reads at each exitable layer and, last, at the final one. Raise `UsageError` for a
    model whose costs at one and at two positions contradict each other.
    """
    counter = ProductCounter()
    counted = counter.watching(decoder)
    with counter:
        hidden_1D, at_one_L, embedding = _price_layers(counted, counter, 1)
        _, at_two_L, _ = _price_layers(counted, counter, 2)
        keys_L, mapped_LL = _price_keys(counted, counter, kv_maps)
        costs_X = [
            {name: counter.count(read, hidden_1D)[1] for name, read in each.items()} for each in reads_of(counted)
        ]
    head = decoder.head_alone.get_output_embeddings()
    unit_costs = UnitCosts(
        embedding=embedding, layer_L=2 * at_one_L - at_two_L, keys_L=keys_L, position_L=at_two_L - at_one_L,
        read_XK=np.array([[costs.get(name, 0) for name in READS] for costs in costs_X]),
        window_L=tuple(decoder.windows), mapped_LL=mapped_LL if kv_maps else None,
        weight_bytes_L=np.array([weight_bytes(layer) for layer in decoder.layers]),
        head_weight_bytes=0 if head is None else weight_bytes(head),
    )  # fmt: skip
    _refuse_impossible(unit_costs)
    return unit_costs


def _refuse_impossible(unit_costs: UnitCosts) -> None:
    """Raise `UsageError` for costs below zero, or costs of keys and values alone above the whole layer's."""
    counts = {
        "the part before layer 0": np.array([unit_costs.embedding]), "layer": unit_costs.layer_L,
        "keys and values of layer": unit_costs.keys_L, "a position in layer": unit_costs.position_L,
        "a read at exitable layer": unit_costs.read_XK.min(1),
    }  # fmt: skip
    for part, count in counts.items():
        if (count < 0).any():
            at = int(count.argmin())
            raise UsageError(f"multiply-adds can't be counted: {part} {at} would have {count[at]}")
    if (unit_costs.keys_L > (whole_L := unit_costs.layer_L + unit_costs.position_L)).any():
        at = int((unit_costs.keys_L - whole_L).argmax())
        raise UsageError(
            f"multiply-adds can't be counted: keys and values of layer {at} have {unit_costs.keys_L[at]}, and all of "
            f"the layer {whole_L[at]}"
        )


def _token(decoder: Decoder, n_positions: int) -> ForwardInputs:
    """Return a token that attends to `n_positions` positions, its own included."""
    one_11 = torch.ones(1, 1, dtype=torch.long, device=decoder.device)
    return ForwardInputs(one_11, one_11 * (n_positions - 1), one_11.bool().expand(1, n_positions))


def _price_layers(decoder: Decoder, counter: ProductCounter, n_positions: int) -> tuple[Tensor, np.ndarray, int]:
    """Run a token through the layers.

    Returns the hidden state after the last layer, (1, D), the multiply-adds of each, (L,), and those before layer 0.
    """
    costs, hidden_1D = list[int](), torch.empty(0)

    def visit(layer: VisitedLayer, hidden_11D: Tensor) -> Tensor:
        nonlocal hidden_1D
        after_11D: Tensor
        after_11D, cost = counter.count(layer.run, hidden_11D)
        costs.append(cost)
        hidden_1D = after_11D[0].to(decoder.device)
        return after_11D

    _, whole = counter.count(decoder.run, visit, _token(decoder, n_positions), decoder.cache(1, n_positions))
    _, after_layers = counter.count(decoder.head_input, hidden_1D)  # a part of the model's own pass
    return hidden_1D, np.array(costs), whole - sum(costs) - after_layers


def _price_keys(decoder: Decoder, counter: ProductCounter, maps: KVMaps | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiply-adds of a skipped layer's keys and values, without the rest of the layer.

    By layer, (L,), they are those of the layer's own projections; by exit layer and skipped layer, (L, L), those of the
    KV map in `maps` or, without a map, of the projections.
    """
    keys_L = np.zeros(decoder.n_layers, np.int64)
    mapped_LL = np.zeros((decoder.n_layers, decoder.n_layers), np.int64)

    def visit(layer: VisitedLayer, hidden_11D: Tensor) -> Tensor:
        keys_L[layer.index] = mapped_LL[:, layer.index] = counter.count(layer.write_keys, hidden_11D)[1]
        for (exit_layer, index), of_layer in maps.of_layers.items() if maps else ():
            if index == layer.index:
                mapped_LL[exit_layer, index] = counter.count(write, layer, hidden_11D, of_layer)[1]
        return hidden_11D

    def write(layer: VisitedLayer, hidden_11D: Tensor, of_layer: Sequence[Callable[[Tensor], Tensor]]) -> None:
        if maps and maps.form == KEYS:
            layer.write_keys(hidden_11D, [partial(lambda instead, _, input: instead(input), each) for each in of_layer])
        else:
            hidden_11D = hidden_11D.to(decoder.devices[layer.index])
            layer.write_keys(hidden_11D + of_layer[0](hidden_11D))

    decoder.run(visit, _token(decoder, 1), decoder.cache(1, 1))
    return keys_L, mapped_LL
