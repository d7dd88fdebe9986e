import pytest
import torch

from eexit.cpu.topk import argmax_logprob, top_tokens


@pytest.mark.parametrize("vocabulary", [5, 256, 300, 1024, 5000, 5120])
def test_the_likeliest_tokens_are_those_of_a_whole_search_and_of_equally_likely_ones_the_first(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    equally_likely = torch.randint(-3, 1, (40, 3, vocabulary), generator=generator).float()
    assert argmax_logprob(equally_likely)[0].tolist() == equally_likely.argmax(-1).tolist()
    log_p = torch.randn(7, 3, vocabulary, generator=generator).log_softmax(-1)
    for top_k, block in ((0, 256), (1, 256), (3, 256), (5, 256), (100, 8), (1000, 8)):
        if top_k > vocabulary:
            continue
        top = log_p.topk(top_k)
        token, top_log_p = top_tokens(log_p, top_k, block)
        assert token.tolist() == top.indices.tolist()
        assert top_log_p.tolist() == top.values.tolist()
