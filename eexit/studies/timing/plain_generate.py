"""Transformers' `generate` and its variants, as they are timed beside the engine.

It decodes greedily, always the same number of tokens; EOS ends nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from eexit.cpu.packed_linear import PackedLinear
from eexit.model.loading import load_model_and_tokenizer
from eexit.plan.configuration import LOOKUP, LOOKUP_TOKENS, HFGenerate
from eexit.sweeps.generator import ModelGenerator

Progress = Callable[[int], None]
Prompt = tuple[int, ...]  # its token ids


def plain_model(generator: ModelGenerator, device: str) -> PreTrainedModel:
    """Return the generator's model as transformers loads it; load it again if its linear layers were packed.

    A plain generation config replaces its own, which could end texts early or change the top token by penalties.
    """
    is_packed = any(isinstance(module, PackedLinear) for module in generator.model.modules())
    model = load_model_and_tokenizer(generator.config, device)[0] if is_packed else generator.model
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    return model


def generate_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    n_tokens: int,
    progress: Progress = lambda n_tokens: None,
    settings: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return the tokens that `generate` of a `plain_model` makes, (B, n_tokens), with further `settings`, if any.

    Calls `progress` as `Engine.generate` does: with the tokens of each decode step; prefill counts as none.
    """
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(prompt) for prompt in prompts], batch_first=True, padding_value=-1, padding_side="left"
    ).to(model.device)
    made: Tensor = model.generate(  # type: ignore[operator]  # of a mixin
        ids.clamp_min(0),
        attention_mask=(ids >= 0).long(),
        max_new_tokens=n_tokens,
        stopping_criteria=StoppingCriteriaList([_ProgressCriteria(progress, ids.shape[1])]),
        **(settings or {}),
    )
    return made[:, ids.shape[1] :]


def settings_of(alternative: HFGenerate) -> dict[str, Any]:
    """Return the arguments of `generate` for a variant."""
    if alternative.draft_layer is not None:
        return {"assistant_early_exit": alternative.draft_layer + 1}  # so many layers
    if alternative.variant == LOOKUP:
        return {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
    return {}


def drafts_itself(model: PreTrainedModel) -> bool:
    """Return True if `generate` can draft with early layers: the model follows its configuration's number."""
    base = getattr(model, model.base_model_prefix, model)
    config, layers = base.config, getattr(base, "layers", None)
    if layers is None or len(layers) != config.num_hidden_layers:
        return False
    ran: list[object] = []
    handle = layers[-1].register_forward_hook(lambda *_: ran.append(None))
    n_layers, config.num_hidden_layers = config.num_hidden_layers, 1
    try:
        with torch.inference_mode():
            model(torch.ones(1, 1, dtype=torch.long, device=model.device))
    finally:
        config.num_hidden_layers = n_layers
        handle.remove()
    return not ran


class _ProgressCriteria(StoppingCriteria):
    """Stopping criterion that stops nothing, and reports the tokens of each step."""

    def __init__(self, progress: Progress, n_prompt: int):
        self._progress, self._seen = progress, n_prompt + 1  # the first token is of the prompt's pass

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if (n_new := input_ids.shape[1] - self._seen) > 0:
            self._progress(len(input_ids) * n_new)
            self._seen = input_ids.shape[1]
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
