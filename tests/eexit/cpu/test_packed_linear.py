import copy

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from eexit.cpu.packed_linear import PackedLinear, pack_linear_layers, plain_bias, plain_weight

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="this build of torch has no oneDNN"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_says_what_it_said(dtype: torch.dtype) -> None:
    plain = tiny_model("qwen2", dtype)  # whose projections have biases
    packed = copy.deepcopy(plain)
    pack_linear_layers(packed)
    kinds = {type(module) for module in packed.modules()}
    assert PackedLinear in kinds
    assert nn.Linear not in kinds
    token_ids = torch.randint(97, (5, 11), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(packed(token_ids).logits, plain(token_ids).logits)


def test_a_cpu_without_bfloat16_sums_in_float32_and_rounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    plain = nn.Linear(300, 40, dtype=torch.bfloat16)
    input_BD = torch.randn(7, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    packed = PackedLinear(plain)
    output_BD = packed(input_BD)
    exact_BD = nn.functional.linear(input_BD.double(), plain.weight.double(), plain.bias.double())
    assert output_BD.dtype == torch.bfloat16
    assert packed.weight.dtype == torch.float32
    assert torch.equal(plain_weight(packed), plain.weight), "float32 holds bfloat16 exactly"
    torch.testing.assert_close(plain_bias(packed), plain.bias, rtol=0, atol=0)
    assert (output_BD == exact_BD.bfloat16()).float().mean() > 0.99, "rounded once: sums differ in their last bits only"
    torch.testing.assert_close(output_BD, exact_BD.bfloat16(), rtol=2**-7, atol=0)


def test_packing_keeps_no_plain_weight() -> None:
    model = tiny_model("llama")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    pack_linear_layers(model)
    kept = sum(parameter.numel() for parameter in model.parameters())
    assert kept < n_parameters / 4, "embeddings and norms are what is left"
