"""Shared parts of the tests of training: a small model, its own texts, and setups."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from references import decoder_of, shared_model
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request
from eexit.method.readouts import READOUTS
from eexit.plan.configuration import NoExit
from eexit.training.loop import Trainer
from eexit.training.ridge import Moments, SplitMoments
from eexit.training.texts import TrainingText, parted
from eexit.training.trainer_inputs import TrainerInputs, TrainingOptions

LAYERS = (1, 3)
N_TEXTS, N_TOKENS = 10, 12


@cache
def texts_of(model: PreTrainedModel) -> tuple[TrainingText, ...]:
    """Return texts by the model; one in five is held out, and one in five is for validation."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (N_TEXTS, 4), generator=generator).tolist()
    decoding = DecodingConfig(exitable_layers=LAYERS, max_new_tokens=N_TOKENS, eos_token_ids=frozenset())
    requests = [Request(tuple(prompt), NoExit()) for prompt in prompts]
    traces = traces_of(Engine(decoder_of(model), decoding).generate(requests))
    return tuple(
        TrainingText(
            str(index), tuple(prompt), tuple(traces[index].token_id_T.tolist()), index % 5 == 0, index % 5 == 1
        )
        for index, prompt in enumerate(prompts)
    )


def learned(model: PreTrainedModel) -> list[TrainingText]:
    return [text for text in texts_of(model) if not text.held_out]


def held_out(model: PreTrainedModel) -> list[TrainingText]:
    return [text for text in texts_of(model) if text.held_out]


def setup_of(model: PreTrainedModel, what: str, **options: object) -> TrainerInputs:
    made = replace(TrainingOptions(what, LAYERS), **options)  # type: ignore[arg-type]
    return TrainerInputs(decoder_of(model), made, READOUTS["lens"], learned(model))


def frozen_llama() -> PreTrainedModel:
    """Return the shared tiny Llama, whose own parameters nothing trains."""
    return shared_model("llama").requires_grad_(False)


def summed(trainer: Trainer, texts: Sequence[TrainingText]) -> SplitMoments:
    sums = SplitMoments()
    for chooses, part in parted(texts):
        for name, input_ND, target_NH in trainer.pairs(part):
            sums.add(name, chooses, Moments.from_tokens(input_ND, target_NH))
    return sums
