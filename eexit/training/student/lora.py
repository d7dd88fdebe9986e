"""Low-rank adapters (LoRA, Hu et al. 2021) of a model, or weights of its own for all that its layers have, by peft."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eexit.errors import UsageError, first_line
from eexit.model.support.refusals import find_stack
from eexit.training.saving import save_tensors
from eexit.training.setup import TrainingOptions

ATTENTION_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")  # of most architectures
ALL_LINEAR: Final = "all-linear"  # as peft calls them
ADAPTABLE: Final = (nn.Linear, nn.Embedding, Conv1D)


def add_adapter(model: PreTrainedModel, options: TrainingOptions) -> PeftModel:
    """Put a new adapter, which changes nothing yet, into the model's own modules, and freeze everything else.

    Without targets, these are the projections of attention if they have their usual names, else what peft adapts by
    default in this architecture; `all-linear` are all projections but the head. Without a rank, it is whole: it has all
    weights of its layers. Raises `UsageError` if the model can't be adapted there.
    """
    config = _whole(model, options.lora_layers) if options.lora_r is None else _low_rank(model, options)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
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


def _whole(model: PreTrainedModel, layers: int | None) -> LoraConfig:
    """Copies of all modules with weights in the first so many layers."""
    path, name = find_stack(model, model.config.get_text_config().num_hidden_layers)
    stack = model.get_submodule(f"{path}.{name}")
    assert isinstance(stack, nn.ModuleList)
    modules = [
        f"{path}.{name}.{layer}.{inner}"
        for layer, each in enumerate(stack[:layers])
        for inner, module in each.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    return LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=modules, task_type="CAUSAL_LM")


def _low_rank(model: PreTrainedModel, options: TrainingOptions) -> LoraConfig:
    targets: Sequence[str] | None = options.lora_targets
    named = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    if targets is None and set(ATTENTION_TARGETS) <= set(named):
        targets = ATTENTION_TARGETS
    missing = [target for target in targets or () if target not in named and target != ALL_LINEAR]
    if missing:
        there = dict.fromkeys(name for name, module in named.items() if isinstance(module, ADAPTABLE))
        raise UsageError(
            f"--lora-targets {missing[0]}: {type(model).__name__} has no module of this name: choose from "
            f"{', '.join([*there, ALL_LINEAR])}"
        )
    modules = ALL_LINEAR if ALL_LINEAR in (targets or ()) else None if targets is None else list(targets)
    assert options.lora_r
    assert options.lora_alpha
    n_layers = options.lora_layers
    return LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, target_modules=modules, task_type="CAUSAL_LM",
        layers_to_transform=None if n_layers is None else list(range(n_layers)),
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in named.values()),  # as in GPT-2
    )  # fmt: skip


def adapter_parameters(adapted: PeftModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters, all that is trained, by name."""
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write the two files that `PeftModel.from_pretrained(model, folder)` reads."""
    config = copy.copy(adapted.peft_config["default"])
    config.inference_mode = True
    if Path(config.base_model_name_or_path or "").exists():
        config.base_model_name_or_path = None  # a place on this machine says nothing elsewhere
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    save_tensors(folder / SAFETENSORS_WEIGHTS_NAME, weights, {"format": "pt"})
