"""Streams of texts are those that the engine had when it wrote them."""

import numpy as np
import pytest
import torch
from references import decoder_of, shared_model
from traces import traces_of

from eexit.decode.engine import Engine
from eexit.decode.predictors import LMHead
from eexit.decode.requests import DecodingConfig, Request
from eexit.plan.configuration import NoExit
from eexit.training.hidden_states import hidden_states
from eexit.training.texts import TrainingText

DECODING = DecodingConfig(exitable_layers=(1, 3), max_new_tokens=9, eos_token_ids=frozenset())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "opt", "mpt", "phi3_longrope"])
def test_reading_the_hidden_states_gives_the_kls_that_were_recorded(architecture: str) -> None:
    """The first token of each answer is left out on demand."""
    decoder, prompts = decoder_of(shared_model(architecture)), ((5, 80, 7, 7, 31), tuple(range(3, 16)))
    traces = traces_of(Engine(decoder, DECODING).generate([Request(prompt, NoExit()) for prompt in prompts]))
    texts = [TrainingText(str(at), prompts[at], tuple(traces[at].token_id_T.tolist())) for at in range(2)]
    states_NXW = hidden_states(decoder, texts, DECODING.exitable_layers)
    reading = LMHead(decoder, DECODING).read_layers(states_NXW)
    np.testing.assert_allclose(
        reading.kl_BE.numpy(), np.concatenate([traces[at].kl_TE for at in range(2)]), rtol=1e-4, atol=1e-4
    )
    assert reading.top_token_BX[:, -1].tolist() == [token for text in texts for token in text.token_ids]
    decided_NXW = hidden_states(decoder, texts, DECODING.exitable_layers, decided_only=True)
    torch.testing.assert_close(decided_NXW, torch.cat([states_NXW[1:9], states_NXW[10:]]))
