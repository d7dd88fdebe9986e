"""Low-rank adapters (LoRA, Hu et al. 2021) of a model, by peft."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eexit.errors import UsageError, first_line
from eexit.training.saving import save_tensors

ATTENTION_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")  # of most architectures
ADAPTABLE: Final = (nn.Linear, nn.Embedding, Conv1D)


def add_adapter(model: PreTrainedModel, rank: int, alpha: int, targets: Sequence[str] | None, seed: int) -> PeftModel:
    """Put a new adapter, which changes nothing yet, into the model's own modules, and freeze everything else.

    Without targets, they are the projections of attention if they have their usual names, else what peft adapts by
    default in this architecture. Raises `UsageError` if it can't be adapted there.
    """
    named = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    if targets is None and set(ATTENTION_TARGETS) <= set(named):
        targets = ATTENTION_TARGETS
    missing = [target for target in targets or () if target not in named]
    if missing:
        there = dict.fromkeys(name for name, module in named.items() if isinstance(module, ADAPTABLE))
        raise UsageError(
            f"--lora-targets {missing[0]}: {type(model).__name__} has no module of this name: choose from "
            f"{', '.join(there)}"
        )
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=None if targets is None else list(targets), task_type="CAUSAL_LM",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in named.values()),  # as in GPT-2
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():  # peft asks transformers for what is deprecated there
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                adapted = get_peft_model(model, config)
        except ValueError as error:
            what = type(model).__name__
            raise UsageError(
                f"{what} can't be adapted: {first_line(error)} (name modules by --lora-targets)"
            ) from error
    assert isinstance(adapted, PeftModel)
    return adapted


def adapter_parameters(adapted: PeftModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters, all that is trained, by name."""
    return {name: parameter for name, parameter in adapted.named_parameters() if "lora_" in name}


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write the two files that `PeftModel.from_pretrained(model, folder)` reads."""
    config = copy.copy(adapted.peft_config["default"])
    config.inference_mode = True
    if Path(config.base_model_name_or_path or "").exists():
        config.base_model_name_or_path = None  # a place on this machine says nothing elsewhere
    config.save_pretrained(str(folder))
    weights = {
        name: tensor.contiguous()
        for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    save_tensors(folder / SAFETENSORS_WEIGHTS_NAME, weights, {"format": "pt"})
