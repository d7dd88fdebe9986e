"""Models that a setting runs with: hooks and patches are followed, and other models are refused."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from taken_settings import Folders, plain, run
from transformers import GenerationConfig, MaxLengthCriteria, PreTrainedModel

import eexit
from eexit.custom_generate.package import SETTING
from eexit.custom_generate.setting import Setting
from eexit.errors import UsageError
from eexit.plan.hashes import checksum

pytestmark = [
    pytest.mark.usefixtures("prices_are_found_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what torch.compile imports
]


def layer(model: PreTrainedModel) -> Any:
    return model.model.layers[4]


def patch_forward(module: Any, wrap: Callable[[Any], Any]) -> None:
    vars(module)["forward"] = wrap(module.forward)


def head_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[PreTrainedModel], None]:
    def replace(model: PreTrainedModel) -> None:
        model.lm_head.weight = torch.nn.Parameter(change(model.lm_head.weight), requires_grad=False)

    return replace


REFUSED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "weights": (lambda model: layer(model).mlp.up_proj.weight.data.view(-1)[1].add_(1), "has other weights"),
    "hook": (lambda model: model.lm_head.register_forward_hook(lambda *given: None), "lm_head has a forward hook"),
    "forward": (
        lambda model: patch_forward(layer(model), lambda own: lambda *args: own(*args)),
        "a forward of its own",
    ),
    "compiled": (lambda model: model.compile(backend="eager"), "the model is compiled.*torch.compile"),
    "configuration": (lambda model: setattr(model.config, "rms_norm_eps", 0.5), "this model has 0.5"),
    "training": (lambda model: model.train(), r"call model.eval\(\)"),
    "autocast": (lambda model: torch.autocast("cpu", torch.bfloat16), "torch.autocast is on.*run it outside"),
    "dtype": (lambda model: model.bfloat16(), "not measured in bfloat16: load the model with dtype"),
    "integers, as of bitsandbytes": (head_weight(lambda weight: weight.to(torch.int8)), "the model is quantised"),
    "packed, as by GPTQ": (
        lambda model: vars(model.lm_head)["_parameters"].pop("weight"),
        "the model is quantised",
    ),
    "devices": (head_weight(lambda weight: weight.to("meta")), "spread over cpu, meta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_as_it_was_loaded_is_refused_in_a_line(
    own_model: PreTrainedModel, drafts: Setting, prompt: list[int], name: str
) -> None:
    """Called as `generate` calls a setting, since some of these models can't get through `generate` itself."""
    change, reason = REFUSED[name]
    done, refusal = change(own_model), pytest.raises(UsageError, match=reason)
    config = GenerationConfig()
    config._pad_token_tensor = None
    given: Any = {"stopping_criteria": [MaxLengthCriteria(len(prompt) + 2)], "generation_config": config}
    with done if isinstance(done, torch.autocast) else nullcontext(), refusal as refused:
        drafts(own_model, torch.tensor([prompt]), **given)
    assert "\n" not in str(refused.value)


def test_a_model_on_another_device_is_refused(folders: Folders, model: PreTrainedModel, tmp_path: Path) -> None:
    shutil.copytree(folders["exits"], tmp_path / "moved")
    held = json.loads((tmp_path / "moved" / SETTING).read_text())
    held["model"]["measured"]["float32"]["device"] = "cuda"
    del held["checksum"]
    (tmp_path / "moved" / SETTING).write_text(json.dumps({**held, "checksum": checksum(held)}))
    with pytest.raises(UsageError, match="was measured on cuda, and the model is on cpu: move it there"):
        plain(model, [3], custom_generate=eexit.load(tmp_path / "moved"))


def test_hooks_of_transformers_and_a_buffer_of_ones_own_are_followed(
    own_model: PreTrainedModel, drafts: Setting, prompt: list[int]
) -> None:
    own_model(torch.tensor([[3]]), output_hidden_states=True)
    own_model.model.rotary_emb.inv_freq.mul_(2)
    assert plain(own_model, prompt, custom_generate=drafts) == plain(own_model, prompt)


def test_what_hooks_on_layers_and_patched_norms_change_is_changed_as_in_plain_generate(
    own_model: PreTrainedModel, drafts: Setting, prompt: list[int]
) -> None:
    before = plain(own_model, prompt)
    layer(own_model).register_forward_hook(lambda _, __, output: output.roll(3, -1))
    layer(own_model).self_attn.register_forward_pre_hook(lambda *given: None)
    patch_forward(own_model.model.layers[2].input_layernorm, lambda own: lambda hidden: 2 * own(hidden))
    changed = plain(own_model, prompt)
    assert changed != before
    assert plain(own_model, prompt, custom_generate=drafts) == changed


def test_hooks_run_where_their_layers_do(own_model: PreTrainedModel, setting: Setting, prompt: list[int]) -> None:
    calls = Counter[int]()
    run(own_model, setting, [prompt])  # which looks at the model
    for index, each in enumerate(own_model.model.layers):
        each.register_forward_hook(lambda _, __, output, index=index: calls.update([index]))
    [(_, exit_layers)] = run(own_model, setting, [prompt])
    assert len(set(exit_layers)) > 1
    assert calls == {index: sum(exit >= index for exit in exit_layers) for index in range(len(own_model.model.layers))}
