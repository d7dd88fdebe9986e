"""Models that a setting runs with: hooks and patches are followed, and other models are refused."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from taken_settings import Folders, plain
from transformers import GenerationConfig, MaxLengthCriteria, PreTrainedModel

from eexit.custom_generate.setting import Setting
from eexit.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports


def patch_forward(module: Any, wrap: Callable[[Any], Any]) -> None:
    vars(module)["forward"] = wrap(module.forward)


def head_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[PreTrainedModel], None]:
    def replace(model: PreTrainedModel) -> None:
        model.lm_head.weight = torch.nn.Parameter(change(model.lm_head.weight), requires_grad=False)

    return replace


REFUSED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "weights": (lambda model: model.model.layers[4].mlp.up_proj.weight.data.view(-1)[1].add_(1), "has other weights"),
    "hook": (lambda model: model.lm_head.register_forward_hook(lambda *given: None), "lm_head has a forward hook"),
    "forward": (
        lambda model: patch_forward(model.model.layers[4], lambda own: lambda *args: own(*args)),
        "forward of its own",
    ),
    "compiled": (lambda model: model.compile(backend="eager"), "the model is compiled.*torch.compile"),
    "configuration": (lambda model: setattr(model.config, "rms_norm_eps", 0.5), "this model has 0.5"),
    "training": (lambda model: model.train(), r"call model.eval\(\)"),
    "autocast": (lambda model: torch.autocast("cpu", torch.bfloat16), "torch.autocast is on.*run it outside"),
    "dtype": (lambda model: model.bfloat16(), "not measured in bfloat16: load the model with dtype"),
    "integers, as of bitsandbytes": (head_weight(lambda weight: weight.to(torch.int8)), "the model is quantised"),
    "packed, as by GPTQ": (lambda model: vars(model.lm_head)["_parameters"].pop("weight"), "model is quantised"),
    "devices": (head_weight(lambda weight: weight.to("meta")), "spread over cpu, meta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_changed_model_is_refused(own_model: PreTrainedModel, drafts: Setting, prompt: list[int], name: str) -> None:
    """Called as `generate` calls a setting, since some of these models can't get through `generate` itself."""
    change, reason = REFUSED[name]
    done, refusal = change(own_model), pytest.raises(UsageError, match=reason)
    config = GenerationConfig()
    config._pad_token_tensor = None
    given: Any = {"stopping_criteria": [MaxLengthCriteria(len(prompt) + 2)], "generation_config": config}
    with done if isinstance(done, torch.autocast) else nullcontext(), refusal as refused:
        drafts(own_model, torch.tensor([prompt]), **given)
    assert "\n" not in str(refused.value)


def test_a_model_on_another_device_is_refused(folders: Folders, model: PreTrainedModel, setting: Setting) -> None:
    about = setting.package.model
    elsewhere = {"float32": about.measured["float32"].model_copy(update={"device": "cuda"})}
    taken = setting.package.model_copy(update={"model": about.model_copy(update={"measured": elsewhere})})
    with pytest.raises(UsageError, match="was measured on cuda, and the model is on cpu"):
        plain(model, [3], custom_generate=Setting(taken, folders["exits"]))


def test_what_hooks_and_patches_change_changes(own_model: PreTrainedModel, drafts: Setting, prompt: list[int]) -> None:
    own_model(torch.tensor([[3]]), output_hidden_states=True)  # which leaves transformers' own hooks
    own_model.model.rotary_emb.inv_freq.mul_(2)
    before = plain(own_model, prompt)
    own_model.model.layers[4].register_forward_hook(lambda _, __, output: output.roll(3, -1))
    own_model.model.layers[4].self_attn.register_forward_pre_hook(lambda *given: None)
    patch_forward(own_model.model.layers[2].input_layernorm, lambda own: lambda hidden: 2 * own(hidden))
    changed = plain(own_model, prompt)
    assert changed != before
    assert plain(own_model, prompt, custom_generate=drafts) == changed
