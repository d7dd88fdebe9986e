"""Arguments of `generate` are followed as plain `generate` follows them, or refused in a line."""

from typing import Any

import pytest
import torch
from taken_settings import N_TOKENS, Folders, Recorded, plain, run
from transformers import AutoTokenizer, DynamicCache, GenerationConfig, PreTrainedModel, StopStringCriteria
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

import eexit
from eexit.custom_generate.setting import Setting
from eexit.errors import UsageError

CONTEXT = 256  # of these models, in tokens


def test_others_are_refused(model: PreTrainedModel, setting: Setting) -> None:
    two = torch.tensor([[3, 4, 5], [6, 7, 8]])
    refused: list[tuple[dict[str, Any], str]] = [
        ({"num_beams": 2}, "beam search can't be done with exits"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation can't be done"),
        ({"logits_processor": [RepetitionPenaltyLogitsProcessor(2.0)]}, "RepetitionPenaltyLogitsProcessor changes"),
        ({"min_new_tokens": 3}, r"Min\w*LengthLogitsProcessor changes logits"),
        ({"do_sample": True}, r"top_k=50 can't be followed here .*: give top_k=0"),
        ({"output_hidden_states": True}, "output_hidden_states=True can't be followed here"),
        ({"cache_implementation": "static"}, "cache_implementation=static can't be followed here"),
        ({"cache": DynamicCache(config=model.config)}, "a cache was given"),
        ({"token_type_ids": torch.zeros(1, 4, dtype=torch.long)}, "token_type_ids"),
        ({"position_ids": torch.tensor([[3, 4, 5, 6]])}, "position_ids are not those"),
        ({"assistant_model": model}, "assistant_model can't be followed here"),
        ({"num_return_sequences": 2, "do_sample": True, "top_k": 0}, "num_return_sequences=2 can't be followed here"),
        ({"max_time": 5.0}, "MaxTimeCriteria can't be followed here"),
        ({"stop_strings": "a"}, "stop_strings need the model's tokenizer"),
        ({"input_ids": two, "attention_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}, "pad on the left"),
        ({"input_ids": two, "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "sequence 1 has no token"),
        ({"input_ids": two, "streamer": Recorded()}, "a streamer takes one sequence, got 2"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, "give at least one sequence"),
        ({"input_ids": torch.full((1, CONTEXT), 9)}, "sequence 0 can't be generated: .* 256 tokens, .* no room"),
        ({"input_ids": torch.tensor([[3, 99999, 4]])}, "sequence 0 has token 99999, and .* has the ids 0"),
        ({"input_ids": torch.tensor([[3, -1]])}, "sequence 0 has token -1"),
        ({"inputs_embeds": torch.zeros(1, 3, 32), "input_ids": None}, "inputs_embeds"),
    ]
    for asked, reason in refused:
        given: dict[str, Any] = {"input_ids": torch.tensor([[70, 71, 72, 73]]), "max_new_tokens": 4, **asked}
        with pytest.raises(ValueError, match=reason):
            setting.generate(model, **given)
        assert setting.stats["sequences"] == 0


def test_a_row_that_reaches_the_context_ends_there_with_a_word(model: PreTrainedModel, drafts: Setting) -> None:
    prompt = [3, 4, 5] * 84
    whole = plain(model, prompt)
    with pytest.warns(UserWarning, match=r"sequence 0 ends after 4 new tokens.* at most 4"):
        assert plain(model, prompt, custom_generate=drafts) == whole[: CONTEXT - len(prompt)]
    assert plain(model, prompt, custom_generate=drafts, max_new_tokens=4) == whole[:4]  # a warning would be an error


def test_which_eos_tokens_end(folders: Folders, own_model: PreTrainedModel, drafts: Setting, prompt: list[int]) -> None:
    whole = plain(own_model, prompt)
    greedy = {"do_sample": True, "top_p": 0.0, "top_k": 0, "temperature": 9.0}
    assert plain(own_model, prompt, custom_generate=drafts, **greedy) == whole
    own, asked = (whole[: whole.index(token_id) + 1] for token_id in (whole[2], whole[-1]))
    assert len(own) < len(whole)
    setting = Setting(drafts.package.model_copy(update={"eos_token_ids": own[-1:]}), folders["drafts"])

    def made(**given: Any) -> list[int]:
        return plain(own_model, prompt, custom_generate=setting, **given)

    assert (made(eos_token_id=asked[-1]), made(eos_token_id=None)) == (asked, whole)
    own_model.generation_config.eos_token_id = None  # in which the model's own configuration names one
    assert made() == whole
    own_model.config.eos_token_id = None
    assert made() == own, "the sweep had its tokenizer's"


@pytest.mark.parametrize("way", ["arguments", "criteria", "configuration of the call", "configuration of the model"])
@pytest.mark.parametrize("name", ["exits", "drafts"])
def test_a_streamer_gets_prompt_and_tokens_and_stop_strings_are_followed_wherever_they_are_given(
    folders: Folders, own_model: PreTrainedModel, prompt: list[int], name: str, way: str
) -> None:
    setting, tokenizer = eexit.load(folders[name]), AutoTokenizer.from_pretrained(folders["model"])
    streamer = Recorded()
    [(whole, layers)] = run(own_model, setting, [prompt], streamer=streamer)
    assert streamer.put_tokens == [prompt, *[[token_id] for token_id in whole]]
    assert (streamer.exits, streamer.ended) == (layers, True)
    pieces = [str(tokenizer.decode([token_id])) for token_id in whole]
    stop = next(piece for piece in pieces[1:-1] if piece.isascii())
    lengths: dict[str, Any] = {"max_new_tokens": N_TOKENS, "do_sample": False}
    given: dict[str, Any] = {
        "arguments": lengths | {"stop_strings": stop},
        "criteria": lengths | {"stopping_criteria": [StopStringCriteria(tokenizer, [stop])]},
        "configuration of the call": {"generation_config": GenerationConfig(**lengths, stop_strings=[stop])},
        "configuration of the model": lengths,
    }[way]
    if given is lengths:
        own_model.generation_config.stop_strings = [stop]
    made = setting.generate(own_model, torch.tensor([prompt]), tokenizer=tokenizer, **given)
    assert made.tolist() == [prompt + whole[: pieces.index(stop) + 1]]


OWN: dict[str, Any] = {
    "repetition_penalty": 1.3, "suppress_tokens": [5], "no_repeat_ngram_size": 2, "forced_eos_token_id": 7,
    "min_new_tokens": 3, "bad_words_ids": [[9]], "cache_implementation": "static",
}  # fmt: skip


def test_what_the_models_own_generation_config_sets_is_named_and_not_applied_and_a_callers_is_refused(
    own_model: PreTrainedModel, setting: Setting, drafts: Setting, prompt: list[int]
) -> None:
    own_model.generation_config.update(do_sample=True, temperature=0.7)
    asked: dict[str, Any] = {"max_new_tokens": 4, "seed": 3, "custom_generate": setting}
    with pytest.warns(UserWarning, match="generation_config sets top_k=50, which a setting does not apply"):
        found = own_model.generate(torch.tensor([prompt]), **asked)  # type: ignore[operator]  # of a mixin
    own_model.generation_config.update(do_sample=False, temperature=1.0)
    assert found[0, len(prompt) :].tolist() == plain(
        own_model, prompt, **asked, do_sample=True, temperature=0.7, top_k=0
    )
    expected = plain(own_model, prompt, custom_generate=drafts)
    own_model.generation_config.update(**OWN)
    with pytest.warns(UserWarning, match="the model's generation_config sets ") as warned:
        assert plain(own_model, prompt, custom_generate=drafts) == expected
    [said] = [str(each.message) for each in warned if "generation_config sets" in str(each.message)]
    assert all((f"{name}=" in said) == (name != "cache_implementation") for name in OWN)
    for own in ({"repetition_penalty": 1.2}, {"min_new_tokens": 4}, {"cache_implementation": "offloaded"}):
        with pytest.raises(UsageError, match=r"changes logits|=offloaded can't be followed"):
            plain(own_model, prompt, custom_generate=drafts, **own)
