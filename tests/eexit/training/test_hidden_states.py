"""Streams of texts are those that the engine had when it wrote them."""

import numpy as np
import pytest
import torch
from references import decoder_of, shared_model
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.predictors import LMHead
from eexit.decode.requests import DecodingConfig, Request
from eexit.plan.configuration import NoExit
from eexit.training.hidden_states import hidden_states
from eexit.training.texts import TrainingText

PROMPTS = ((5, 80, 7, 7, 31), tuple(range(3, 16)))
DECODING = DecodingConfig(exitable_layers=(1, 3), max_new_tokens=9, eos_token_ids=frozenset())


def texts_of(model: PreTrainedModel) -> tuple[list[TrainingText], np.ndarray]:
    """Two texts of the model, and the KLs of their tokens as the engine recorded them."""
    requests = [Request(prompt, NoExit()) for prompt in PROMPTS]
    traces = traces_of(Engine(decoder_of(model), DECODING).generate(requests))
    both = [traces[index] for index in range(len(PROMPTS))]
    texts = [TrainingText(str(at), PROMPTS[at], tuple(trace.token_id_T.tolist())) for at, trace in enumerate(both)]
    return texts, np.concatenate([trace.kl_TE for trace in both])


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "opt", "mpt", "phi3_longrope"])
def test_reading_the_streams_gives_the_kls_that_were_recorded(architecture: str) -> None:
    model = shared_model(architecture)
    texts, kl_NE = texts_of(model)
    states_NXW = hidden_states(decoder_of(model), texts, DECODING.exitable_layers)
    reading = LMHead(decoder_of(model), DECODING).read_layers(states_NXW)
    np.testing.assert_allclose(reading.kl_BE.numpy(), kl_NE, rtol=1e-4, atol=1e-4)
    assert reading.top_token_BX[:, -1].tolist() == [token for text in texts for token in text.token_ids]


def test_the_first_token_of_each_answer_is_left_out_on_demand(llama: PreTrainedModel) -> None:
    texts, _ = texts_of(llama)
    every, decided = (hidden_states(decoder_of(llama), texts, (1,), decided_only) for decided_only in (False, True))
    torch.testing.assert_close(decided, torch.cat([every[1:9], every[10:]]))
