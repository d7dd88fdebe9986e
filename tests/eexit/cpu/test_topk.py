"""Top tokens with their log-probabilities are tested in `method`, with the divergence."""

import pytest
import torch

from eexit.cpu.topk import argmax_logprob


@pytest.mark.parametrize("vocabulary", [5, 256, 300, 5120])
def test_of_equally_likely_tokens_the_first_is_the_likeliest(vocabulary: int) -> None:
    log_p = torch.randint(-3, 1, (40, 3, vocabulary), generator=torch.Generator().manual_seed(0)).float()
    assert argmax_logprob(log_p)[0].tolist() == log_p.argmax(-1).tolist()
