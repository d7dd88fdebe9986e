"""From a prompt to the model's input: through the tokenizer's chat template, to token ids."""

import re
from functools import lru_cache
from typing import Final, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

Tokenizer = PreTrainedTokenizerBase
_PROMPT: Final = "0"  # of a chat of which only the text behind the prompt is used


def format_and_tokenize_input(
    prompt: str, system_prompt: str, prefiller: str, tokenizer: Tokenizer, device: torch.device | str = "cpu",
    control_tokens: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the model's input: `input_ids` and `attention_mask`, (1, T) each.

    The tokenizer's chat template formats the texts; without one, they are joined as plain text. Names of control tokens
    in them, such as `<|im_start|>`, are plain text, unless `control_tokens` is true. Raise `ValueError` if the
    tokenizer can encode such a name as the control token only.
    """
    texts = [system_prompt, prompt, prefiller]
    if not control_tokens:
        chat_template = tokenizer.chat_template and tokenizer.get_chat_template()
        texts = mark_control_tokens(texts, _names_of_control_tokens(tokenizer, chat_template))
    if tokenizer.chat_template is None:
        ids = _encode_alone("\n".join(filter(None, texts)), tokenizer)
    else:  # it writes special tokens itself
        ids = encode_marked_chat(tokenizer, _render(tokenizer, *texts[:2]) + texts[2])
    input_ids = torch.tensor([ids], dtype=torch.long, device=device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def before_answer(tokenizer: Tokenizer, system_prompt: str) -> str:
    """Return the chat template's text between a prompt and its answer, which may open the chain of thought."""
    if tokenizer.chat_template is None:
        return ""
    return _render(tokenizer, system_prompt, _PROMPT).rpartition(_PROMPT)[2]


@lru_cache(maxsize=4)
def _names_of_control_tokens(tokenizer: Tokenizer, chat_template: str | None) -> re.Pattern[str]:
    """Return a pattern of the tokenizer's special tokens, and of other added tokens that the chat template uses."""
    names = {*tokenizer.all_special_tokens, *tokenizer._get_control_tokens(chat_template or "")}
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


def _encode_alone(marked: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text among the special tokens that the tokenizer adds."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return [*whole[:start], *encode_marked_chat(tokenizer, marked), *whole[start + len(bare) :]]


def _render(tokenizer: Tokenizer, system: str, prompt: str) -> str:
    """Return the chat up to the answer. If the template refuses system prompts, the user's turn has it."""

    def render(**turns: str) -> str:
        messages = [{"role": role, "content": content} for role, content in turns.items()]
        return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    if not system:
        return render(user=prompt)
    try:
        return render(system=system, user=prompt)
    except TemplateError:
        return render(user=f"{system}\n\n{prompt}")
