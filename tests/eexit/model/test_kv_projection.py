"""Keys and values alone are the layer's own, and cost what their matrices have numbers."""

from collections import Counter

import torch
from references import decoder_of, packed_decoder_of, unit_costs_of
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eexit.model.layers import ForwardInputs, VisitedLayer

APART = {"k_proj", "v_proj"}
TOGETHER = {"c_attn", "query_key_value", "Wqkv", "qkv_proj"}  # queries, keys and values from one matrix


@torch.inference_mode()
def test_keys_and_values_alone_are_the_layers_own_without_queries(any_model: PreTrainedModel) -> None:
    """Check sequences of several lengths."""
    decoder, cache = decoder_of(any_model), decoder_of(any_model).cache(2, 5)
    inputs = ForwardInputs.from_texts([(5, 80, 7), (9, 8, 60, 61, 3)], torch.device("cpu"))
    keys_L, packed_L = (unit_costs_of(each).keys_L.tolist() for each in (decoder, packed_decoder_of(any_model)))
    assert keys_L == packed_L

    def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
        after_BTD = layer.run(hidden_BTD)
        parts = cache.latest(layer.index, 5)
        expected = [part.clone() for part in parts]
        for part in parts:
            part.zero_()
        ran, module = Counter[str](), decoder.layers[layer.index]
        matrices = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear | Conv1D)}
        handles = [
            each.register_forward_hook(lambda *_, name=name: ran.update([name])) for name, each in matrices.items()
        ]
        layer.write_keys(hidden_BTD)
        for handle in handles:
            handle.remove()
        assert all(torch.equal(part, own) for part, own in zip(parts, expected, strict=True))
        names = {name.rpartition(".")[2] for name in ran}
        assert names in (APART, {"kv_a_proj_with_mqa"}, *({name} for name in TOGETHER))
        assert set(ran.values()) == {1}
        assert keys_L[layer.index] == sum(matrices[name].weight.numel() for name in ran)
        own = [path.rpartition(".")[2] for path in decoder.for_keys[layer.index].projections or ()]
        assert own == (["k_proj", "v_proj"] if names == APART else [])
        return after_BTD

    decoder.run(visit, inputs, cache)
