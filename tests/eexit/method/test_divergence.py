"""The comparison with the final layer: KL, JSD, entropy and top tokens by definition, by operators and compiled."""

from collections.abc import Callable

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from eexit.method import divergence as module
from eexit.method.divergence import Divergence

Compare = Callable[[Tensor, int], Divergence]
pytestmark = pytest.mark.parametrize("compare", [module.compare, module.divergence_from_final])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 1000, 5000])  # in the last, some tokens are in no whole block
def test_divergences_and_entropy_are_those_of_definition(compare: Compare, vocabulary: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (8 * torch.randn(50, 4, vocabulary)).to(dtype)
    log_p = logits.double().log_softmax(-1)
    log_final = log_p[:, -1:]
    divergence = compare(logits, 3)
    kl = (log_final.exp() * (log_final - log_p[:, :-1])).sum(-1)
    torch.testing.assert_close(divergence.kl_BE.double(), kl, rtol=1e-5, atol=2e-5)
    jsd = torch.tensor(jensenshannon(log_final.exp(), log_p[:, :-1].exp(), axis=-1) ** 2)
    torch.testing.assert_close(divergence.jsd_BE.double(), jsd, rtol=0, atol=2e-6)
    entropy = -(log_final.exp() * log_final).sum(-1)[:, 0]
    torch.testing.assert_close(divergence.entropy_B.double(), entropy, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(divergence.final_lse_B, logits[:, -1].float().logsumexp(-1))
    assert divergence.top_token_BX.tolist() == logits.argmax(-1).tolist()
    top_p = log_p.exp().gather(-1, divergence.top_token_BXK)
    torch.testing.assert_close(top_p, log_p.exp().topk(3).values)
    torch.testing.assert_close(divergence.top_prob_BXK.double(), top_p, rtol=1e-5, atol=1e-7)
    assert all(len(set(tokens)) == 3 for tokens in divergence.top_token_BXK.flatten(0, 1).tolist())


def test_a_row_without_a_number_is_told_from_others_and_top_tokens_are_optional(compare: Compare) -> None:
    logits = torch.randn(4, 3, 1000)
    logits[1, 0, 500], logits[2, 2, 7], logits[3, 1, 999] = torch.nan, torch.inf, torch.nan
    divergence = compare(logits, 0)
    finite = divergence.kl_BE.isfinite().all(-1) & divergence.entropy_B.isfinite()
    assert finite.tolist() == [True, False, False, False]
    assert divergence.top_token_BXK.shape == divergence.top_prob_BXK.shape == (4, 3, 0)


def test_divergences_are_zero_to_itself_and_never_negative(compare: Compare) -> None:
    final = torch.tensor([[0.0, 1e4, -1e4], [3.0, 3.0, 3.0], [80.0, -80.0, 0.0]])
    near = final + 1e-3 * torch.randn(3, 3)
    compared = compare(torch.stack([final, near, final], 1), 0)
    assert compared.kl_BE[:, 0].tolist() == [0, 0, 0]
    assert compared.jsd_BE[:, 0].max() < 1e-6
    assert all((divergence_BE >= 0).all() for divergence_BE in (compared.kl_BE, compared.jsd_BE))
