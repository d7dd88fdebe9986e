"""What the tests of training share: a small model, its own texts, and setups."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from axes import EXITABLE
from references import decoder_of, reference_of, shared_model
from tiny_models import tiny_model
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.rows.requests import Decoding, Request
from eexit.decode.trace import Trace
from eexit.method.readouts import READOUTS
from eexit.model.decoder import Decoder
from eexit.plan.configuration import Exit, Normal
from eexit.training.setup import Setup, TrainingOptions
from eexit.training.student.frozen import LayerStack
from eexit.training.student.lora import add_adapter
from eexit.training.student.passes import LogitsReader, Pair
from eexit.training.texts import Text

LAYERS = (1, 3)
N_TEXTS, N_TOKENS = 10, 12


@cache
def texts_of(model: PreTrainedModel) -> tuple[Text, ...]:
    """What the model wrote; one text in five is held out, and one in five chooses."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (N_TEXTS, 4), generator=generator).tolist()
    decoding = Decoding(exitable_layers=LAYERS, max_new_tokens=N_TOKENS, eos_token_ids=frozenset())
    requests = [Request(tuple(prompt), Normal()) for prompt in prompts]
    traces = traces_of(Engine(decoder_of(model), decoding).generate(requests))
    return tuple(
        Text(str(index), tuple(prompt), tuple(traces[index].token_id_T.tolist()), index % 5 == 0, index % 5 == 1)
        for index, prompt in enumerate(prompts)
    )


def learned(model: PreTrainedModel) -> list[Text]:
    return [text for text in texts_of(model) if not text.held_out]


def held_out(model: PreTrainedModel) -> list[Text]:
    return [text for text in texts_of(model) if text.held_out]


def setup_of(model: PreTrainedModel, what: str, texts: Sequence[Text] | None = None, **options: object) -> Setup:
    made = replace(TrainingOptions(what, LAYERS), **options).with_defaults()  # type: ignore[arg-type]
    return Setup(model, decoder_of(model), made, READOUTS["lens"], texts or learned(model))


def frozen_llama() -> PreTrainedModel:
    """The shared tiny Llama: nothing trains its own parameters."""
    return shared_model("llama").requires_grad_(False)


DECODING = Decoding(exitable_layers=EXITABLE, max_new_tokens=14, eos_token_ids=frozenset())
PROMPTS = ((5, 80, 7, 7, 31), (44, 2, 90, 61, 13, 8, 8, 70, 21))
FINAL = 6
SEED = 3


def written(model: PreTrainedModel) -> tuple[list[Text], list[Trace]]:
    """Texts that the naive reference wrote with exits that freeze the stream."""
    configuration = Exit("frozen_residual", "kl", 0.5)
    traces = [reference_of(model, Request(prompt, configuration, SEED), DECODING) for prompt in PROMPTS]
    texts = [
        Text(str(prompt), prompt, tuple(trace.token_id_T.tolist()))
        for prompt, trace in zip(PROMPTS, traces, strict=True)
    ]
    return texts, traces


def pair_of(architecture: str) -> Pair:
    model = tiny_model(architecture)
    decoder = Decoder(model)
    stack = LayerStack(model, decoder.n_layers)
    return Pair(
        add_adapter(model, TrainingOptions("student", EXITABLE, seed=1, lora_r=4, lora_alpha=8)),
        stack,
        LogitsReader(decoder, READOUTS["lens"]),
        EXITABLE,
    )
