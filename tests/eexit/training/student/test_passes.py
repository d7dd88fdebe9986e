"""The passes of a student: exits leave what they leave in a sweep, and gradients are those of the KL."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from references import decoder_of, shared_model
from tiny_models import tiny_model
from torch.nn.functional import kl_div
from trained import DECODING, FINAL, PROMPTS, SEED, pair_of, written
from transformers import PreTrainedModel

from eexit.errors import UsageError
from eexit.method.draws import exit_draws
from eexit.method.readouts import READOUTS
from eexit.training.setup import TrainingOptions
from eexit.training.student import passes
from eexit.training.student.frozen import LayerStack, Padded
from eexit.training.student.lora import adapter_parameters, add_adapter, save_adapter
from eexit.training.student.passes import LogitsReader, exit_gradients


def decided(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of all tokens but each text's first."""
    return torch.cat([column[1:] for column in columns])


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "falcon_alibi"])
def test_exits_leave_what_they_leave_in_a_sweep(architecture: str) -> None:
    model = shared_model(architecture)
    decoder, (texts, traces) = decoder_of(model), written(model)
    exit_N = decided([torch.tensor(trace.exit_layer_T) for trace in traces])
    with torch.no_grad():
        padded = Padded.of(texts, model.device)
        streams = LayerStack(model, decoder.n_layers).streams(padded, [FINAL], exit_N)
        log_p_NV = LogitsReader(decoder, READOUTS["lens"]).logits_at(streams[FINAL], exit_N).log_softmax(-1)
    assert len(exit_N.unique()) > 1
    token_N = decided([torch.tensor(text.token_ids) for text in texts])
    expected_N = decided([torch.tensor(trace.exit_logprob_T) for trace in traces])
    torch.testing.assert_close(log_p_NV.gather(1, token_N[:, None])[:, 0], expected_N.float(), atol=1e-4, rtol=1e-4)


def test_the_teacher_gives_the_kls_and_exits_of_a_sweep(llama: PreTrainedModel) -> None:
    texts, traces = written(llama)
    pair = pair_of("llama")
    for taught in (pair.teach(texts), pair.teach(texts[::-1]), pair.teach(texts)):  # later ones know the KLs
        ordered = traces if taught.padded.token_BT[0, 0] == PROMPTS[0][0] else traces[::-1]
        kl_NE = decided([torch.tensor(trace.kl_TE) for trace in ordered])
        torch.testing.assert_close(taught.kl_NE, kl_NE.float(), atol=1e-4, rtol=1e-4)
    draws = [torch.tensor(exit_draws(SEED, list(prompt), DECODING.max_new_tokens)) for prompt in PROMPTS]
    exit_N = pair.draw_exits(taught, 0.5, decided(draws))
    assert exit_N.tolist() == decided([torch.tensor(trace.exit_layer_T) for trace in traces]).tolist()


@pytest.mark.parametrize("readout", ["lens", "raw"])
def test_gradients_are_those_of_the_kl_however_few_positions_are_read_at_a_time(
    llama: PreTrainedModel, readout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, generator = decoder_of(llama), torch.Generator().manual_seed(0)
    reader = LogitsReader(decoder, READOUTS[readout])
    teacher_NW, hidden_NW = torch.randn(2, 12, decoder.width, generator=generator)
    exit_N = torch.tensor([1, 3, FINAL]).repeat(4)
    hidden_NW.requires_grad_()
    at_end_NV = decoder.read(teacher_NW).log_softmax(-1).detach()
    own_NV = torch.where(
        (exit_N == FINAL)[:, None],
        decoder.read(hidden_NW),
        decoder.head(READOUTS[readout].before_head(decoder, hidden_NW, 1)),
    ).log_softmax(-1)
    kl_N = kl_div(own_NV, at_end_NV, log_target=True, reduction="none").sum(-1)
    (gradient_NW,) = torch.autograd.grad(kl_N.sum(), hidden_NW)
    for at_a_time in (1, 5 * decoder.vocabulary, 1 << 23):
        monkeypatch.setattr(passes, "LOGITS_AT_A_TIME", at_a_time)
        learned_kl_N, learned_gradient_NW = exit_gradients(reader, teacher_NW, hidden_NW, exit_N)
        torch.testing.assert_close(learned_kl_N, kl_N.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(learned_gradient_NW, gradient_NW, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's own loading
def test_only_the_adapter_learns_and_peft_reads_its_files(llama: PreTrainedModel, tmp_path: Path) -> None:
    pair, (texts, _) = pair_of("llama"), written(llama)
    inputs = torch.tensor([texts[0].token_ids])
    taught = pair.teach(texts)
    exit_N = pair.draw_exits(taught, 0.5, torch.full((len(taught.kl_NE),), 0.5))
    before = pair.compare(taught, exit_N).kl_BE.mean()
    parameters = adapter_parameters(pair.model)
    optimiser = torch.optim.SGD(parameters.values(), lr=0.02)
    for _ in range(4):
        pair.learn(taught, exit_N, len(exit_N))
        optimiser.step()
        optimiser.zero_grad()
    assert pair.compare(taught, exit_N).kl_BE.mean() < before
    save_adapter(pair.model, tmp_path)
    with torch.no_grad():
        own = pair.model(input_ids=inputs).logits
        with pair.model.disable_adapter():
            assert torch.equal(pair.model(input_ids=inputs).logits, llama(input_ids=inputs).logits)
        read_back = PeftModel.from_pretrained(copy.deepcopy(llama), str(tmp_path))
        torch.testing.assert_close(read_back(input_ids=inputs).logits, own)
    assert not torch.allclose(own, llama(input_ids=inputs).logits)


def test_where_a_model_is_adapted() -> None:
    def adapted(architecture: str, targets: tuple[str, ...] | None = None) -> set[str]:
        model = add_adapter(
            tiny_model(architecture), TrainingOptions("student", (), lora_r=4, lora_alpha=8, lora_targets=targets)
        )
        return {name.split(".lora_")[0].rpartition(".")[2] for name in adapter_parameters(model)}

    assert adapted("llama") == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert adapted("gpt2") == {"c_attn"}  # peft's choice
    assert adapted("phi3", ("qkv_proj", "down_proj")) == {"qkv_proj", "down_proj"}
    with pytest.raises(UsageError, match="--lora-targets q_proj: GPT2LMHeadModel has no module of this name"):
        adapted("gpt2", ("q_proj",))
    with pytest.raises(UsageError, match=r"Phi3ForCausalLM can't be adapted: .*name modules by --lora-targets"):
        adapted("phi3")
