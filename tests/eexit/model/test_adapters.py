"""Adapters are merged into a copy that shares what they do not change; those of other models are refused."""

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from byte_model import configuring, losing, save_byte_model, sweep_of
from card import Card
from peft import PeftModel
from references import save_adapter
from tiny_models import tiny_model
from transformers import LlamaForCausalLM, PreTrainedModel

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.errors import UsageError
from eexit.model.adapters import merged
from eexit.model.sources import PEFT_FILES
from eexit.plan.configuration import EarlyExit, NoExit
from eexit.plan.model_description import estimate_memory, own_weights
from eexit.plan.runs import plan_runs
from eexit.studies.timing.decode_timer import DecodeTimer
from eexit.sweeps.generator import ModelGenerator

CONFIG, WEIGHTS = PEFT_FILES
TOKEN_IDS = torch.tensor([[5, 80, 7, 7, 31]])


@pytest.mark.parametrize(
    ("architecture", "modules"), [("llama", ["q_proj", "v_proj"]), ("gemma3", ["k_proj", "embed_tokens"])]
)
def test_a_merged_model_is_pefts_and_shares_the_rest(tmp_path: Path, architecture: str, modules: list[str]) -> None:
    base = tiny_model(architecture)
    before = copy.deepcopy(base.state_dict())
    folder = save_adapter(base, tmp_path, modules)
    student = merged(base, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = PeftModel.from_pretrained(copy.deepcopy(base), folder)(TOKEN_IDS).logits
    torch.testing.assert_close(student(TOKEN_IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert (student(TOKEN_IDS).logits - base(TOKEN_IDS).logits).abs().max() > 1
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.parameters())
    changed = [module for name, module in base.named_modules() if name.rpartition(".")[2] in modules]
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    n_own = sum(parameter.numel() for parameter in student.parameters() if parameter.data_ptr() not in shared)
    assert n_own == sum(module.weight.numel() for module in changed) == own_weights(base, folder) > 0


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="torch has no oneDNN here")
def test_what_two_models_share_is_packed_once(tmp_path: Path) -> None:
    base = tiny_model("llama")
    student = merged(base, save_adapter(base, tmp_path, ["q_proj", "v_proj"]))
    expected = [model(TOKEN_IDS).logits for model in (base, student)]
    pack_linear_layers(base, student)
    for model, logits in zip((base, student), expected, strict=True):
        torch.testing.assert_close(model(TOKEN_IDS).logits, logits, rtol=1e-4, atol=1e-4)
    for layer, own in zip(base.model.layers, student.model.layers, strict=True):
        assert own.mlp.up_proj is layer.mlp.up_proj
        assert own.self_attn.q_proj is not layer.self_attn.q_proj
    assert student.lm_head is base.lm_head


def test_a_sweep_with_a_student(tmp_path: Path) -> None:
    """Run the student in all modes but normal, time it beside the base model, and count its weights' memory."""
    save_byte_model(tmp_path / "model")
    save_adapter(LlamaForCausalLM.from_pretrained(tmp_path / "model"), tmp_path / "student")
    sweep = sweep_of(
        tmp_path / "model", adapter=str(tmp_path / "student"), modes=("normal", "unfrozen"),
        rules={"kl": (0.5,), "fixed": (3.0,)}, exit_every=3, max_new_tokens=8,
    )  # fmt: skip
    base = sweep.model_copy(update={"adapter": None, "digests": {}})
    texts = []
    for config in (sweep, base):
        rows = ModelGenerator(config, "cpu").generate([*plan_runs(config)]).generations.to_pylist()
        texts.append({row["configuration"]: row["text"] for row in rows})
    assert [key for key in texts[0] if texts[0][key] != texts[1][key]] == ["unfrozen/kl/0.5", "unfrozen/fixed/3"]

    timer, ran = DecodeTimer(sweep, "cpu", 4), Counter[str]()
    assert timer.student is not None
    for name, decoder in (("base", timer.decoder), ("student", timer.student)):
        decoder.layers[-1].register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
    timer.time(NoExit(), 1, timer.prompts)
    assert ran.keys() == {"base"}
    timer.time(EarlyExit("unfrozen", "fixed", 3.0), 1, timer.prompts)
    assert ran.keys() == {"base", "student"}

    (memory, *others), (memory_of_base, *same) = map(estimate_memory, (sweep, base))
    assert others == same
    n_layers, width, n_modules = 7, 32, 3
    assert memory - memory_of_base == 4 * n_layers * n_modules * width**2


def replace_by_a_shallower_model(folder: Path) -> None:
    (folder / CONFIG).unlink()
    tiny_model("llama", num_hidden_layers=6).save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json: give a folder that peft"),
        (replace_by_a_shallower_model, r"is of another model: model\.layers\.6\..* does not have the shape"),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no adapter_model.safetensors: give a folder that peft has"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no"), "can't be used with this model: .*header"),
        (lambda folder: (folder / CONFIG).write_text("{"), "can't be used with this model: "),
        (losing(".layers.6.", WEIGHTS), r"is of another model: .*layers\.6.* fits none of its weights"),
        (lambda folder: save_adapter(tiny_model("gpt2"), folder), "can't be used with this model: Target modules"),
        (configuring(CONFIG, r=8), "can't be used with this model: .*size mismatch"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused_in_a_line(
    llama: PreTrainedModel, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    save_adapter(llama, tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=f"^--adapter {tmp_path} {message}") as refused:
        merged(llama, str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_fine_tuned_model_is_a_student_with_weights_of_its_own(llama: PreTrainedModel, tmp_path: Path) -> None:
    tuned = merged(llama, save_adapter(llama, tmp_path / "peft"))
    tuned.save_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(merged(llama, str(tmp_path / "tuned"))(TOKEN_IDS).logits, tuned(TOKEN_IDS).logits)
    assert own_weights(llama, str(tmp_path / "tuned")) == sum(part.numel() for part in llama.parameters())


def test_peft_and_one_card_are_needed(llama: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_adapter(llama, tmp_path)
    with Card() as card, pytest.raises(UsageError, match=r"merged into .* are on privateuseone:0, privateuse"):
        merged(card.take(llama, spread=True), folder)
    monkeypatch.setitem(sys.modules, "peft", None)
    for use in (merged, own_weights):
        with pytest.raises(UsageError, match=r"is peft's.* pip install 'eexit\[student\]'$"):
            use(llama, folder)
