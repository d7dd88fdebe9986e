from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from reference.generation import draw, stick_breaking
from reference.rules import RuleInputs, stop_by_kl
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from eexit.cpu import kernels
from eexit.errors import UsageError
from eexit.method.divergence import Divergence, divergence_from_final
from eexit.method.rules import RULES
from eexit.method.stick_breaking import choose_exits, exit_draws, exit_probabilities, sampling_draws
from eexit.plan.config import SweepConfig
from eexit.plan.exit_layers import resolve_exitable_layers

Compare = Callable[[Tensor, int], Divergence]


@pytest.fixture(params=["operators", "compiled"])
def compare(request: pytest.FixtureRequest) -> Compare:
    """Return both implementations of the comparison with the final layer."""
    if request.param == "operators":
        return divergence_from_final
    request.getfixturevalue("can_compile")
    return compiled


def compiled(logits: Tensor, top_k: int) -> Divergence:
    columns = kernels.divergence(logits, top_k)
    assert columns is not None
    return Divergence(*columns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 1000, 5120])
def test_kl_jsd_and_entropy_are_those_of_the_definition_in_double_precision(
    compare: Compare, vocabulary: int, dtype: torch.dtype
) -> None:
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
    assert divergence.likeliest_BX.tolist() == logits.argmax(-1).tolist()
    top_p = log_p.exp().gather(-1, divergence.top_token_BXK)
    torch.testing.assert_close(top_p, log_p.exp().topk(3).values)
    torch.testing.assert_close(divergence.top_prob_BXK.double(), top_p, rtol=1e-5, atol=1e-7)
    assert all(len(set(tokens)) == 3 for tokens in divergence.top_token_BXK.flatten(0, 1).tolist())


def test_a_row_without_a_number_is_told_from_its_neighbours(compare: Compare) -> None:
    logits = torch.randn(4, 3, 1000)
    logits[1, 0, 500], logits[2, 2, 7], logits[3, 1, 999] = torch.nan, torch.inf, torch.nan
    divergence = compare(logits, 1)
    finite = divergence.kl_BE.isfinite().all(-1) & divergence.entropy_B.isfinite()
    assert finite.tolist() == [True, False, False, False]


def test_no_top_tokens_are_noted_unless_asked_for(compare: Compare) -> None:
    divergence = compare(torch.randn(2, 3, 40), 0)
    assert divergence.top_token_BXK.shape == divergence.top_prob_BXK.shape == (2, 3, 0)


def test_divergences_are_zero_to_itself_and_never_negative(compare: Compare) -> None:
    final = torch.tensor([[0.0, 1e4, -1e4], [3.0, 3.0, 3.0], [80.0, -80.0, 0.0]])
    near = final + 1e-3 * torch.randn(3, 3)
    compared = compare(torch.stack([final, near, final], 1), 0)
    assert compared.kl_BE[:, 0].tolist() == [0, 0, 0]
    assert compared.jsd_BE[:, 0].max() < 1e-6
    for divergence_BE in (compared.kl_BE, compared.jsd_BE):
        assert (divergence_BE >= 0).all()


def test_probabilities_and_choices_are_those_of_the_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    kl = 4 * torch.rand(200, 4, generator=generator)
    k = torch.tensor([0.0, 0.25, 1.0, 8.0]).repeat(50)
    u = torch.rand(200, generator=generator)
    chances = RULES["kl"].chances(kl, k[:, None].expand(-1, 4))
    probabilities, choices = exit_probabilities(chances), choose_exits(chances, u)
    for row in range(200):
        stops, seen = stop_by_kl(RuleInputs(kl[row].tolist(), [], torch.empty(0), [], [], (), None), k[row].item())
        assert seen == kl[row].tolist()
        assert probabilities[row].tolist() == pytest.approx(stick_breaking(stops), abs=1e-5)
        assert choices[row] == draw(stops, u[row].item())
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(200))


def test_a_larger_factor_never_exits_earlier() -> None:
    generator = torch.Generator().manual_seed(1)
    kl, u = 3 * torch.rand(500, 5, generator=generator), torch.rand(500, generator=generator)
    factors = (0.0, 0.5, 1.0, 2.0, 1e9)
    chosen = [choose_exits(RULES["kl"].chances(kl, torch.full_like(kl, k)), u) for k in factors]
    for earlier, later in pairwise(chosen):
        assert (earlier <= later).all()
    assert (chosen[0] == 0).all()
    assert (chosen[-1] == 5).all()


def test_draws_depend_on_seed_and_prompt_and_extend() -> None:
    ten = exit_draws(1, [3, 4], 10)
    assert exit_draws(1, [3, 4], 4).tolist() == ten[:4].tolist()
    assert not set(ten) & {*exit_draws(2, [3, 4], 10), *exit_draws(1, [3, 5], 10), *sampling_draws(1, [3, 4], 10)}
    assert (exit_draws(0, [1], 100_000) < 1).all()


def sweep(**fields: object) -> SweepConfig:
    return SweepConfig.model_validate({"prompts": [{"id": "0", "prompt": "Why?"}], **fields})


def test_exitable_layers_default_to_every_fifth_below_the_final_one() -> None:
    assert resolve_exitable_layers(sweep(), 30) == (5, 10, 15, 20, 25)
    assert resolve_exitable_layers(sweep(), 26) == (5, 10, 15, 20)
    assert resolve_exitable_layers(sweep(exit_layers=(0, 28)), 30) == (0, 28)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"draft": ("7:2",)}, "draft 7:2 is not at an exitable layer, which are 5, 10, 15, 20, 25: choose one of them"),
        ({"exit_layers": (3, 29)}, "exit layer 29 is not below the final layer: .* may go up to 28"),
        ({"exit_every": 29}, "no exitable layer: .*0…29 and --exit-every is 29"),
    ],
)
def test_layers_that_cannot_exit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_exitable_layers(sweep(**fields), 30)
