"""The recipe for a student: a few steps bring early layers closer to full depth, on texts that were held out."""

from pathlib import Path
from random import Random

import pytest
import torch
from byte_model import save_byte_model
from commands import refusal, success
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.model.adapters import merged
from eexit.plan.artefacts import ADAPTER, read_card
from jobs.files import student

LAYERS = (2, 4)
WORDS = ("the sun is up", "and sky blue", "a cat", "sat on", "the mat", "by the door", "we go to sea", "when it is hot")


def texts(seed: int, n: int) -> list[str]:
    draws = Random(seed)
    return [" ".join(draws.choices(WORDS, k=5)) for _ in range(n)]


@torch.no_grad()
def read(model: PreTrainedModel) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of held-out tokens, (N, V), after the final layer and after each exitable one."""
    said = model(torch.tensor([list(texts(1, 1)[0].encode())]), output_hidden_states=True)
    early = [model.lm_head(model.model.norm(said.hidden_states[layer + 1])) for layer in LAYERS]
    final, *others = [logits[0].log_softmax(-1) for logits in (said.logits, *early)]
    return final, others


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of which peft asks
@pytest.mark.parametrize(("loss", "rate"), [("cross-entropy", "1e-2"), ("kl", "3e-3")])
def test_twenty_steps_bring_early_layers_closer_to_full_depth(tmp_path: Path, loss: str, rate: str) -> None:
    save_byte_model(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n\n".join(texts(0, 320)))
    done = success(
        student.main, tmp_path / "texts.txt", "--model", tmp_path / "model", "--loss", loss, "--early-scale", "1",
        "--exit-every", "2", "--learning_rate", rate, "--max_steps", "20", "--per_device_train_batch_size", "16",
        "--use_cpu", "--output_dir", tmp_path / "student", "--save_strategy", "no", "--disable_tqdm", "true",
    )  # fmt: skip
    given = f"--model {tmp_path / 'model'} --adapter {tmp_path / 'student'}"
    assert done.stdout.endswith(f"eexit sweep {given} --out {tmp_path / 'student'}-sweep\n")
    assert read_card(str(tmp_path / "student"), ADAPTER).digest
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    (before, early_before), (after, early_after) = read(model), read(merged(model, str(tmp_path / "student")))
    for then, now in zip(early_before, early_after, strict=True):
        nats = (before.exp() * (now - then)).sum(-1).mean()  # of KL from full depth before
        agreeing = [(x.argmax(-1) == y.argmax(-1)).float().mean() for x, y in ((now, after), (then, before))]
        assert nats > 0.01 if loss == "kl" else agreeing[0] - agreeing[1] > 0.1


def test_what_can_not_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a")
    save_byte_model(tmp_path / "model")
    short = refusal(student.main, tmp_path / "short.txt", "--model", tmp_path / "model")
    assert "has no token to learn from within" in short
    assert "nowhere" in refusal(student.main, tmp_path / "nowhere")
