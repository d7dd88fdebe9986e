"""The user's snippet on the real default model, and generators that can't be."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eexit import KLExitGenerator, format_and_tokenize_input, get_early_exit_indices, load_default_model_and_tokenizer
from eexit.errors import UsageError


def test_the_users_snippet_runs_as_it_stands() -> None:
    model, tokenizer = load_default_model_and_tokenizer()
    inputs = format_and_tokenize_input(
        prompt="Explain recursion.",
        system_prompt="You are a helpful programming tutor.",
        prefiller="",
        tokenizer=tokenizer,
        device=model.device,
    )
    generator = KLExitGenerator(model=model, tokenizer=tokenizer, mode="frozen_residual",
                                exitable_layers=get_early_exit_indices(model))  # fmt: skip
    tokens, exit_layers, prediction = generator.generate(inputs=inputs, kl_strength=1.0, max_new_tokens=100)
    results = generator.evaluate_response(tokens, exit_layers, inputs)

    assert results["response"] == prediction.text == "".join(tokens)
    assert "recurs" in prediction.text.lower()
    assert get_early_exit_indices(model) == results["exitable_layers"] == [5, 10, 15, 20, 25]
    assert json.loads(json.dumps(results)) == results
    normal = KLExitGenerator(model=model, tokenizer=tokenizer, mode="normal")
    _, _, plain = normal.generate(inputs=inputs, kl_strength=1.0, max_new_tokens=10)
    whole = model.generate(**inputs, max_new_tokens=10, do_sample=False, pad_token_id=2)  # type: ignore[operator]
    assert plain.token_ids == whole[0, inputs["input_ids"].shape[1] :].tolist()
    stats = results["early_exit_stats"]
    decided = exit_layers[1:]
    assert stats["layer_distribution"] == {str(layer): decided.count(layer) for layer in sorted(set(decided))}
    assert stats["total_tokens"] == len(decided)
    assert 0 < stats["early_exits"] == len(decided) - decided.count(29) < len(decided)
    assert stats["usage"]["prompt_tokens"] == inputs["input_ids"].shape[1]
    assert prediction.kl.shape == (len(tokens), 5)


def test_a_generator_that_cannot_be_is_refused(llama: PreTrainedModel) -> None:
    tokenizer = cast(PreTrainedTokenizerBase, SimpleNamespace(eos_token_id=None))
    changes: dict[str, dict[str, Any]] = {
        "unknown mode 'thawed': choose from normal, unfrozen, frozen_residual": {"mode": "thawed"},
        "within 0…5, got .3, 6.": {"exitable_layers": [3, 6]},
        "must be increasing": {"exitable_layers": [5, 3]},
    }
    for message, change in changes.items():
        with pytest.raises(UsageError, match=message):
            KLExitGenerator(llama, tokenizer, **change)
