import pytest
import torch

from eexit.cpu.topk import argmax_logprob, top_tokens


@pytest.mark.parametrize("vocabulary", [5, 256, 300, 5120])
def test_of_equally_likely_tokens_the_first_is_the_likeliest(vocabulary: int) -> None:
    torch.manual_seed(0)
    log_p = torch.randint(-3, 1, (40, 3, vocabulary)).float()
    assert argmax_logprob(log_p)[0].tolist() == log_p.argmax(-1).tolist()


@pytest.mark.parametrize("vocabulary", [5, 256, 1024, 5000])
def test_the_likeliest_tokens_are_those_of_a_whole_search(vocabulary: int) -> None:
    log_p = torch.randn(7, 3, vocabulary, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    for top_k, block in ((0, 256), (1, 256), (3, 256), (5, 256), (100, 8), (1000, 8)):
        if top_k > vocabulary:
            continue
        top = log_p.topk(top_k)
        token, top_log_p = top_tokens(log_p, top_k, block)
        assert token.tolist() == top.indices.tolist()
        assert top_log_p.tolist() == top.values.tolist()
