"""A small model that needs depth at known places: it adds numbers modulo a prime, with or without a chain.

A prompt such as "c2 a3 b4" has the answer "<think> c 2 a 0 b 4 </think> answer 4". Each sum is the previous one plus
one number, which the first layer computes and learns to predict. It learns to be unsure of the next letter, and to
repeat the previous one, so that a model that exits there goes wrong. After "<think> </think>" the answer
comes at once, and needs all layers: the first learns to add the last two numbers, the second the last four, the third
the last eight, and the fourth moves the sum to the answer's position. There, the first layer is sure of the last number
in its input, since that is the answer after a chain.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PRIME: Final = 5
LABELS: Final = "abcdefgh"
NUMBERS: Final = range(2, len(LABELS) + 1)  # how many are added
N_LAYERS: Final = 4
MARKS: Final = ("=", "<think>", "</think>", "answer", "<eos>", "<unk>")
SUMS: Final = tuple(map(str, range(PRIME)))
WORDS: Final = (*SUMS, *LABELS, *(f"{label}{number}" for label in LABELS for number in range(PRIME)), *MARKS)
LABEL_IDS: Final = [WORDS.index(label) for label in LABELS]
STEPS, ROWS, WITH_CHAIN = 1500, 48, 0.6
PEAK: Final = 2e-3  # learning rate
IGNORED: Final = -100

Numbers = list[tuple[str, int]]  # with their labels, in the order in which they are added


def drawn(rng: Random, n_numbers: int) -> Numbers:
    return [(label, rng.randrange(PRIME)) for label in rng.sample(LABELS, n_numbers)]


def prompt_of(numbers: Numbers) -> str:
    return " ".join(f"{label}{number}" for label, number in numbers)


def sum_of(numbers: Numbers) -> int:
    return sum(number for _, number in numbers) % PRIME


def answer_of(numbers: Numbers, with_chain: bool) -> str:
    steps = [f"{label} {sum_of(numbers[: at + 1])} " for at, (label, _) in enumerate(numbers)] if with_chain else []
    return f"<think> {''.join(steps)}</think> answer {sum_of(numbers)} <eos>"


def prompts(n: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of a prompt file, all different, with equally many of each number of numbers."""
    rng, found = Random(seed), dict[str, dict[str, Any]]()
    while len(found) < n:
        numbers = drawn(rng, NUMBERS[len(found) % len(NUMBERS)])
        row = {"id": f"sum-{len(found)}", "prompt": prompt_of(numbers), "answer": str(sum_of(numbers))}
        found.setdefault(prompt_of(numbers), row | {"steps": len(numbers)})
    return list(found.values())


def lesson(tasks: Sequence[tuple[Numbers, bool]]) -> list[Tensor]:
    """Return a training batch of tasks, which are numbers to add, and whether with a chain.

    It has the tokens, and targets for the next token, the first layer, its guesses of letters, and, for each layer but
    the last, the sums of the prompt's last numbers.
    """
    rows = [torch.tensor(row_of(*each)).T for each in tasks]
    token_BT, *targets = pad_sequence(rows, batch_first=True, padding_value=IGNORED).unbind(2)
    return [token_BT.clamp_min(0), *targets]


def row_of(numbers: Numbers, with_chain: bool) -> list[list[int]]:
    asked, answered = f"{prompt_of(numbers)} =".split(), answer_of(numbers, with_chain).split()
    token = [WORDS.index(word) for word in [*asked, *answered[:-1]]]
    target = [IGNORED] * (len(asked) - 1) + [WORDS.index(word) for word in answered]
    shallow, guess = list(target), [IGNORED] * len(target)
    before = numbers[-1][0]
    for at, each in enumerate(target):
        if each in LABEL_IDS:
            shallow[at], guess[at] = IGNORED, WORDS.index(before)
            before = WORDS[each]
    if not with_chain:
        shallow[-2] = numbers[-1][1]  # the answer's position
    sums = [
        [sum_of(numbers[max(0, at + 1 - 2**depth) : at + 1]) for at in range(len(numbers))]
        for depth in range(1, N_LAYERS)
    ]
    return [token, target, shallow, guess, *(each + [IGNORED] * (len(token) - len(each)) for each in sums)]


def trained() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=192, intermediate_size=576, num_hidden_layers=N_LAYERS,
        num_attention_heads=6, max_position_embeddings=64, bos_token_id=None, eos_token_id=WORDS.index("<eos>"),
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    adders = nn.ModuleList(nn.Linear(config.hidden_size, PRIME) for _ in range(N_LAYERS - 1))
    parameters = [*model.parameters(), *adders.parameters()]
    rng, optimizer = Random(0), torch.optim.AdamW(parameters, PEAK, (0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        tasks = [(drawn(rng, rng.choice(NUMBERS)), rng.random() < WITH_CHAIN) for _ in range(ROWS)]
        loss = loss_of(model, adders, lesson(tasks))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return model


def loss_of(model: LlamaForCausalLM, adders: nn.ModuleList, batch: Sequence[Tensor]) -> Tensor:
    token_BT, next_BT, shallow_BT, guess_BT, *sums_BT = batch
    made = model(token_BT, output_hidden_states=True)
    streams = made.hidden_states[1:]
    shallow = model.lm_head(model.model.norm(streams[0]))
    any_letter = -shallow[guess_BT != IGNORED].log_softmax(-1)[:, LABEL_IDS].mean()
    guesses = 0.5 * _mean(shallow, guess_BT) + 0.5 * any_letter
    loss: Tensor = _mean(made.logits, next_BT) + 0.3 * (_mean(shallow, shallow_BT) + guesses)
    for adder, stream, sum_BT in zip(adders, streams, sums_BT, strict=False):
        loss = loss + _mean(adder(stream), sum_BT)
    return loss


def _mean(logits_BTV: Tensor, target_BT: Tensor) -> Tensor:
    return cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=IGNORED)


def save_adding_model(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    marks = pre_tokenizers.Split(Regex("</?think>"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([marks, pre_tokenizers.WhitespaceSplit()])
    template = "{{ messages[-1].content }} ="
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", chat_template=template)
    made.save_pretrained(folder)
    trained().save_pretrained(folder)
