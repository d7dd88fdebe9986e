"""Models with quantised weights run like any other, and impossible uses are refused."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import save_byte_model, save_family, sweep_of
from references import decoder_of, packed_decoder_of, save_adapter, shared_model
from rows import DECODING, PROMPTS, as_reference, configurations, exits_of, generate, grid
from torch import nn
from traces import assert_same
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from eexit.cpu.packed_linear import PackedLinear, pack_linear_layers
from eexit.decode.predictors import measure_unit_costs
from eexit.errors import UsageError
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.model import quantization
from eexit.model.adapters import merged, sharing
from eexit.model.layers import Decoder
from eexit.model.loading import choose_dtype, load_model_and_tokenizer
from eexit.model.quantization import INT4, INT8, precision_of, quantization_of
from eexit.plan.model_description import describe_model, estimate_memory

SHORT = replace(DECODING, max_new_tokens=8)
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is an extra")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="only some users have bitsandbytes")


def by_torchao(folder: Path, quantize: str) -> PreTrainedModel:
    return load_model_and_tokenizer(sweep_of(folder, quantize=quantize), "cpu")[0]


def by_bitsandbytes(folder: Path, bits: str) -> PreTrainedModel:
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    given: Any = {"dtype": torch.float32, "quantization_config": how, "device_map": "cpu"}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, **given).eval()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("whole"), "llama")


@pytest.mark.parametrize(
    ("load", "kind", "name"),
    [
        pytest.param(by_torchao, INT8, INT8, marks=needs_torchao),
        pytest.param(by_torchao, INT4, INT4, marks=needs_torchao),
        pytest.param(by_bitsandbytes, "4", "bitsandbytes", marks=needs_bitsandbytes),
    ],
)
def test_invariants_1_3_and_4(folder: Path, load: Callable[[Path, str], PreTrainedModel], kind: str, name: str) -> None:
    model = load(folder, kind)
    assert quantization_of(model) == name
    assert precision_of(model) == f"float32 with {name} weights"
    requests = grid(configurations(model, ["unfrozen", "frozen_residual"], ["kl", "confidence"]), PROMPTS[:2])
    traces = as_reference(model, requests, SHORT)
    assert len(exits_of(traces)) > 2
    prompt = torch.tensor([requests[0].prompt_token_ids])
    made = model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)  # type: ignore[operator]
    assert [*requests[0].prompt_token_ids, *traces[0].token_id_T.tolist()] == made[0].tolist()
    for index in (0, 5, -1):
        assert_same(traces[index], generate(model, [requests[index]], SHORT)[0])


@needs_bitsandbytes
def test_a_model_whose_products_depend_on_other_rows_is_refused_in_float32(folder: Path) -> None:
    """Refuse LLM.int8(), which also quantises inputs, by outliers of all sequences together."""
    with pytest.raises(UsageError, match="left padding beside a longer sequence changes its logits"):
        Decoder(by_bitsandbytes(folder, "8"))


@needs_torchao
@pytest.mark.parametrize("quantize", [INT8, INT4])
def test_multiply_adds_stay_and_bytes_are_fewer_as_was_estimated(folder: Path, quantize: str) -> None:
    model, whole = by_torchao(folder, quantize), load_model_and_tokenizer(sweep_of(folder), "cpu")[0]
    decoders = decoder_of(model), decoder_of(whole), packed_decoder_of(whole)
    unit_costs, of_whole, packed = (measure_unit_costs(each, SHORT) for each in decoders)
    for name in ("embedding", "layer_L", "keys_L", "position_L", "read_XK"):
        assert torch.equal(*(torch.tensor(getattr(each, name)) for each in (unit_costs, of_whole))), name
    *_, (layer, head) = estimate_memory(sweep_of(folder, quantize=quantize))
    assert (unit_costs.weight_bytes_L.tolist(), unit_costs.head_weight_bytes) == ([layer] * 7, head)
    assert layer < 0.45 * of_whole.weight_bytes_L[0]
    assert head == of_whole.head_weight_bytes
    assert packed.weight_bytes_L.tolist() == of_whole.weight_bytes_L.tolist()


@needs_torchao
def test_whole_weights_alone_are_packed_a_copy_shares_others_and_impossible_uses_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    model = by_torchao(folder, INT8)
    copied, project = sharing(model), "model.layers.0.mlp.up_proj"
    assert copied.get_submodule(project) is not model.get_submodule(project)
    assert copied.get_submodule(project).weight is model.get_submodule(project).weight
    pack_linear_layers(copied)
    packed = [name for name, module in copied.named_modules() if isinstance(module, PackedLinear)]
    assert packed == ["lm_head"]
    assert type(model.lm_head) is nn.Linear
    adapter = save_adapter(shared_model("llama"), tmp_path)
    student = sweep_of(folder, quantize=INT8).model_copy(update={"adapter": adapter})
    for merge in (lambda: merged(model, adapter), lambda: estimate_memory(student)):
        with pytest.raises(UsageError, match=r"is merged into weights, .* quantised \(int8\)"):
            merge()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model.lm_head, Int8WeightOnlyConfig())
    with pytest.raises(UsageError, match="the head's weights, which are quantised: decide on head"):
        Screen(decoder_of(model), ScreenSize(4, 5), torch.eye(model.config.hidden_size))
    for family, weight in (("mixtral", "model.layers.0.mlp"), ("gpt2", "transformer.h.0.attn.c_attn.weight")):
        other = save_family(tmp_path / family, family)
        with pytest.raises(UsageError, match=rf"--quantize int8 is for linear layers .* {weight}.* is of none"):
            estimate_memory(sweep_of(other, quantize=INT8))
    save_byte_model(tmp_path / "quantised")
    by_torchao(folder, INT8).save_pretrained(tmp_path / "quantised")
    for look in (describe_model, load_model_and_tokenizer):
        with pytest.raises(UsageError, match=r"--quantize int4: .* quantised already \(torchao\), leave"):
            look(sweep_of(tmp_path / "quantised", quantize=INT4))
    assert describe_model(sweep_of(tmp_path / "quantised")).quantization == "torchao"
    assert quantization_of(load_model_and_tokenizer(sweep_of(tmp_path / "quantised"), "cpu")[0]) == INT8


def test_four_bits_need_torchao_and_have_their_dtype(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [choose_dtype(dtype, torch.device("cpu"), INT4) for dtype in ("auto", "float32")]
    assert chosen == [torch.bfloat16, torch.float32]
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"int4 needs torchao.*: pip install 'eexit\[quantized\]'"):
        describe_model(sweep_of(folder, quantize=INT4))


@needs_torchao
def test_nothing_is_printed_while_weights_are_quantised(folder: Path) -> None:
    """Run a process of its own, since libraries warn once, when they are imported."""
    load = f'eexit.load_default_model_and_tokenizer({str(folder)!r}, "cpu", "float32", "int4")[0]'
    code = f"import eexit; print(type({load}.model.layers[0].mlp.up_proj.weight).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Int4OpaqueTensor\n", "")
