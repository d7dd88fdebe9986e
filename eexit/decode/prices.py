"""What the parts of a model cost: their matrix products, counted by torch's flop counter while one token runs.

The product of a vector of length n with an n × m matrix costs n·m multiply-adds, half of what the counter calls flops.
Norms, activations and softmax are not products, and are left out, as the counter leaves them out. Experts are counted
where they are run, even if their outputs are multiplied by zero: Llama 4 runs all of them for every token. Quantised
weights cost the multiply-adds of those that they stand for; that they take fewer bytes, `weight_bytes_L` says.

Our attention is priced by the shapes that layers pass to it, since its implementation may compute more than the
positions there are. What layers compute themselves for each position is found by running them with one and with two
positions: attention by code of their own, or keys and values that are expanded from what DeepSeek's layers keep.

Shapes: W width of the residual stream, L layers, E exitable layers, X = E + 1, K kinds of looks.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from eexit.decode.costs.counting import LOOKS, Prices
from eexit.decode.layer_reading import Reader
from eexit.decode.rows.requests import Decoding
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.model.layerwise import LayerPass
from eexit.model.quantization import weight_bytes
from eexit.model.views import CacheView


@torch.inference_mode()
def find_prices(decoder: Decoder, decoding: Decoding) -> Prices:
    """Run a single token through the parts of a model, three times in all, and count what they cost."""
    with decoder.attending(), sdpa_kernel(SDPBackend.MATH):  # whose products the counter sees on every device
        (hidden_11W, layer_pass, view), begun = _counted(_begin, decoder, 1)
        keys = [_counted(layer_pass.write_keys, layer, hidden_11W)[1] for layer in range(decoder.n_layers)]
        at_one_L = _price_layers(hidden_11W, layer_pass)
        further_hidden_11W, further_pass, _ = _begin(decoder, 2)
        in_layer_L = _price_layers(further_hidden_11W, further_pass) - at_one_L
        _, after_layers = _counted(decoder.normed, hidden_11W[:, 0])  # which `begin` runs too
        look_XK = _price_looks(decoder, decoding, hidden_11W[:, 0])
        mapped_LL = _price_maps(decoding, hidden_11W, layer_pass, keys) if decoding.state_maps else None
    head = decoder.head_alone.get_output_embeddings()
    in_attention_L = np.array([view.multiply_adds.get(layer, 0) for layer in range(decoder.n_layers)])
    return Prices(
        before=begun - after_layers,
        layer_L=at_one_L - in_layer_L,
        keys_L=np.array(keys),
        position_L=in_attention_L + in_layer_L,
        look_XK=look_XK,
        window_L=tuple(decoder.windows),
        mapped_LL=mapped_LL,
        weight_bytes_L=np.array([weight_bytes(layer) for layer in decoder.layers]),
        head_weight_bytes=0 if head is None else weight_bytes(head),
    )


class _Priced(CacheView):
    """Notes what our attention to one position costs in each layer, and returns zeros instead of attending."""

    def __init__(self, decoder: Decoder, n_positions: int):
        position_11 = torch.tensor([[n_positions - 1]], device=decoder.device)
        super().__init__(KVCache(1, n_positions), position_11, n_positions, left_padded=decoder.attends_itself)
        self.multiply_adds: dict[int, int] = {}  # by layer

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        n_rows, n_heads, n_tokens, key_width = query.shape
        self.multiply_adds[self.layer] = n_heads * (key_width + value.shape[-1])
        return query.new_zeros(n_rows, n_tokens, n_heads, value.shape[-1])


def _begin(decoder: Decoder, n_positions: int) -> tuple[Tensor, LayerPass, _Priced]:
    """Begin the pass of a token that has so many positions to attend to, its own included."""
    view = _Priced(decoder, n_positions)
    hidden_11W, layer_pass = decoder.begin(torch.ones_like(view.position_BT), view)
    return hidden_11W, layer_pass, view


def _price_layers(hidden_11W: Tensor, layer_pass: LayerPass) -> np.ndarray:
    """The multiply-adds of each layer in this pass, (L,), our attention apart."""
    multiply_adds = []
    for layer in range(layer_pass.decoder.n_layers):
        hidden_11W, of_layer = _counted(layer_pass.block, layer, hidden_11W)
        multiply_adds.append(of_layer)
    return np.array(multiply_adds)


def _price_maps(decoding: Decoding, hidden_11W: Tensor, layer_pass: LayerPass, keys: Sequence[int]) -> np.ndarray:
    """The multiply-adds of keys and values that state maps make, by exit layer and then layer, (L, L)."""
    assert decoding.state_maps
    mapped_LL = np.tile(keys, (len(keys), 1))  # in the layer next to an exit, nothing is mapped
    for exit_layer, layer in decoding.state_maps.of_layers:
        exits = [(exit_layer, slice(None))]
        mapped_LL[exit_layer, layer] = _counted(decoding.state_maps.write_keys, layer_pass, layer, hidden_11W, exits)[1]
    return mapped_LL


def _price_looks(decoder: Decoder, decoding: Decoding, hidden_1W: Tensor) -> np.ndarray:
    """The multiply-adds of each of LOOKS, (X, K), of which probe and gate look at no final layer."""
    reader, screen = Reader(decoder, decoding.readout), decoding.screen
    prices: list[dict[str, int]] = []
    for layer in (*decoding.exitable_layers, reader.final):
        ready_1H, ready = _counted(reader.ready, hidden_1W, layer)
        price = {"head_reads": ready + _counted(decoder.head, ready_1H)[1]}
        if screen:
            price["screen_reads"] = ready + _counted(screen.read, ready_1H)[1]
        if decoding.probe and layer != reader.final:
            one_1 = torch.ones_like(hidden_1W[:, 0])
            price["probe_reads"] = _counted(decoding.probe.predicted_kl, hidden_1W, layer, one_1)[1]
        if decoding.gate and layer != reader.final:
            price["gate_reads"] = _counted(decoding.gate.chance, hidden_1W, layer, decoding.gate.rules[0])[1]
        prices.append(price)
    return np.array([[price.get(name, 0) for name in LOOKS] for price in prices])


def _counted(run: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """What a function returns, and how many multiply-adds it took.

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
