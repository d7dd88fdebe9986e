"""How much a step launches on a card, beside transformers' own `generate` of the same model and rows.

On a GPU, a step of a few rows takes as long as its operators take to be launched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import Any, cast

import pytest
import torch
from card import DEVICE, Card, Counts
from tiny_models import tiny_model
from traces import traces_of

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request
from eexit.model.layers import Decoder
from eexit.plan.configuration import Configuration, EarlyExit, NoExit

N_ROWS, N_TOKENS = 32, 9
PROMPTS = [tuple((5 * row + token) % 64 for token in range(7)) for row in range(N_ROWS)]
STEADY = slice(3, -1)  # steps in which rows neither come nor go
EXITS, STAYS = 1e-6, 1.0  # thresholds of confidence: half of the rows exit at the first exitable layer, none later


@dataclass(frozen=True)
class Launches:
    """Operators, copies to the card, and waits of the host in a step: medians of steps."""

    operators: float
    to_card: float
    waits: float

    @classmethod
    def from_steps(cls, steps: Sequence[Counts]) -> "Launches":
        some = steps[STEADY]
        waits = [len(step.waits) + step.to_host for step in some]
        return cls(median(s.operators for s in some), median(s.to_card for s in some), median(waits))


@cache
def decoder_there(n_layers: int) -> Decoder:
    with Card() as card:
        return Decoder(card.take(tiny_model("llama", num_hidden_layers=n_layers, initializer_range=0.02)))


@cache
def of_generate(n_layers: int) -> Launches:
    steps, model = list[Counts](), cast(Any, decoder_there(n_layers).model)
    with Card() as card, torch.inference_mode():

        def note(_: torch.LongTensor, logits_BV: torch.FloatTensor) -> torch.FloatTensor:
            steps.append(replace(card.counts))
            card.counts = Counts()
            return logits_BV

        prompt_BT = torch.tensor(PROMPTS).to(DEVICE)
        model.generate(
            prompt_BT, attention_mask=torch.ones_like(prompt_BT), logits_processor=[note], do_sample=False,
            max_new_tokens=N_TOKENS, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return Launches.from_steps(steps)


def of_engine(n_layers: int, exitable_layers: tuple[int, ...], configurations: Sequence[Configuration]) -> Launches:
    """Return the launches with rows that have these configurations in turn."""
    steps, decoding = list[Counts](), DecodingConfig(exitable_layers, N_TOKENS, frozenset(), record_full_depth="none")
    requests = [Request(prompt, configurations[row % len(configurations)]) for row, prompt in enumerate(PROMPTS)]
    engine = Engine(decoder_there(n_layers), decoding)
    with Card() as card:

        def note(_: int) -> None:
            steps.append(replace(card.counts))
            card.counts = Counts()

        traces_of(engine.generate(requests, note))
    return Launches.from_steps(steps)


FIVE = (5, 10, 15, 20, 25)


def confident(mode: str) -> list[EarlyExit]:
    return [EarlyExit(mode, "confidence", threshold) for threshold in (EXITS, STAYS)]


@pytest.mark.parametrize(
    ("exitable_layers", "configurations", "most", "waits"),
    [
        (FIVE, [NoExit()], 1.1, 1),
        ((25,), confident("frozen_residual"), 1.2, 2),
        (FIVE, confident("frozen_residual"), 1.35, 6),
        (FIVE, [*confident("frozen_residual"), NoExit()], 1.35, 1),  # no step stops early
    ],
    ids=["normal", "one exitable layer", "five exitable layers", "beside normal"],
)
def test_a_step_launches_little_more_than_generate(
    exitable_layers: tuple[int, ...], configurations: Sequence[Configuration], most: float, waits: int
) -> None:
    step = of_engine(30, exitable_layers, configurations)
    assert step.operators <= most * of_generate(30).operators
    assert step.waits <= waits
    assert step.to_card <= 2


@pytest.mark.parametrize("mode", ["unfrozen", "frozen_residual"])
def test_a_layer_takes_what_it_takes_in_generate_and_a_selection_past_exits(mode: str) -> None:
    deep, shallow = (of_engine(n_layers, (3, 6), confident(mode)) for n_layers in (12, 8))
    own = of_generate(12).operators - of_generate(8).operators
    assert deep.operators - shallow.operators <= own + 4 * (mode != "unfrozen")
