import copy

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from eexit.cpu import packed_linear
from eexit.cpu.packed_linear import PackedLinear, faster_plain, pack_linear_layers, plain_bias, plain_weight

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="this build of torch has no oneDNN"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_has_the_same_logits(dtype: torch.dtype) -> None:
    plain = tiny_model("qwen2", dtype)  # whose projections have biases
    packed = copy.deepcopy(plain)
    n_parameters = sum(parameter.numel() for parameter in plain.parameters())
    pack_linear_layers(packed)
    assert nn.Linear not in {type(module) for module in packed.modules()}
    assert sum(part.numel() for part in packed.parameters()) < n_parameters / 4, "only embeddings and norms are left"
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


def test_plain_weights_that_are_kept_multiply_few_rows_and_no_more() -> None:
    linear = nn.Linear(300, 40)
    packed = PackedLinear(linear, few_rows=2)
    said = linear(torch.ones(3, 300))
    torch.testing.assert_close(packed(torch.ones(3, 300)), said)
    with torch.no_grad():
        linear.weight.fill_(torch.nan)
    assert packed(torch.ones(1, 2, 300)).isnan().all(), "two rows, whatever their shape"
    torch.testing.assert_close(packed(torch.ones(3, 300)), said)
    assert [name for name, _ in packed.named_parameters()] == ["bias"], "what is kept is no part of it"


def test_plain_weights_are_kept_for_rows_they_speed_up() -> None:
    assert faster_plain({1: (3.0, 2.0), 2: (1.0, 2.0)}) == 0
    assert faster_plain({1: (1.0, 2.0), 2: (2.0, 2.0), 4: (1.0, 2.0)}) == 1
    assert faster_plain({1: (1.0, 2.0), 2: (1.0, 2.0), 4: (1.6, 2.0)}) == 4
    assert faster_plain({1: (1.8, 2.0)}) == 0, "twice the memory for a tenth of the time"


def test_plain_weights_are_kept_if_memory_has_room_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "TIMED_BYTES", 1)
    monkeypatch.setattr(packed_linear, "faster_plain", lambda seconds: 1)
    for available, dtype in ((0, torch.bfloat16), (10**9, torch.bfloat16), (10**9, torch.float32)):
        monkeypatch.setattr(packed_linear, "_available_bytes", lambda available=available: available)
        pack_linear_layers(model := tiny_model("llama", dtype))
        kept = {bool(module.plain) for module in model.modules() if isinstance(module, PackedLinear)}
        assert kept == {available > 0}, dtype
