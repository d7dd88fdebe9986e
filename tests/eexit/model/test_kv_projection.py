"""Keys and values alone are the layer's own, without what only its output needs."""

import torch
from references import decoder_of
from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.model.layers import ForwardInputs, VisitedLayer


def test_keys_and_values_alone_are_the_layers_own(any_model: PreTrainedModel) -> None:
    """Check sequences of several lengths, without queries where these have a matrix of their own."""
    decoder, ran = decoder_of(any_model), set[str]()
    inputs = ForwardInputs.from_texts([(5, 80, 7), (9, 8, 60, 61, 3)], torch.device("cpu"))
    cache = decoder.cache(2, 5)

    def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
        after_BTW = layer.run(hidden_BTW)
        parts = cache.latest(layer.index, 5)
        expected = [part.clone() for part in parts]
        for part in parts:
            part.zero_()
        linear = {
            name: module
            for name, module in decoder.layers[layer.index].named_modules()
            if isinstance(module, nn.Linear)
        }
        handles = [module.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, module in linear.items()]
        layer.write_keys(hidden_BTW)
        for handle in handles:
            handle.remove()
        assert all(torch.equal(part, own) for part, own in zip(parts, expected, strict=True))
        return after_BTW

    decoder.run(visit, inputs, cache)
    assert not [name for name in ran if name.rpartition(".")[2] in ("q_proj", "q_a_proj", "q_b_proj", "o_proj")]
    assert not [name for name in ran if "mlp" in name or "feed_forward" in name]
    is_apart = any(name.endswith("k_proj") for name in ran)
    assert is_apart == any(name.endswith("k_proj") for name, _ in decoder.layers[0].named_modules())
