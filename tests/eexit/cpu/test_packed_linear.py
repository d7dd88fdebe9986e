import copy

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from eexit.cpu.packed_linear import PackedLinear, pack_linear_layers

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="this build of torch has no oneDNN"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_says_what_it_said(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this machine")
    plain = tiny_model("qwen2", dtype)  # whose projections have biases
    packed = copy.deepcopy(plain)
    pack_linear_layers(packed)
    kinds = {type(module) for module in packed.modules()}
    assert PackedLinear in kinds
    assert nn.Linear not in kinds
    token_ids = torch.randint(97, (5, 11), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(packed(token_ids).logits, plain(token_ids).logits)


def test_packing_keeps_no_plain_weight() -> None:
    model = tiny_model("llama")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    pack_linear_layers(model)
    kept = sum(parameter.numel() for parameter in model.parameters())
    assert kept < n_parameters / 4, "embeddings and norms are what is left"
