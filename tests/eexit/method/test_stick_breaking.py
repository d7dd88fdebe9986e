import pytest
import torch
from reference.generation import draw, stick_breaking
from reference.rules import RuleInputs, stop_by_kl

from eexit.method.rules import RULES
from eexit.method.stick_breaking import choose_exits, exit_probabilities, uniform_draws


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


def test_draws_depend_on_purpose_seed_and_prompt_and_extend() -> None:
    ten = uniform_draws("exit", 1, [3, 4], 10)
    assert uniform_draws("exit", 1, [3, 4], 4).tolist() == ten[:4].tolist()
    for others in (("exit", 2, [3, 4]), ("exit", 1, [3, 5]), ("sample", 1, [3, 4]), ("prompt", 1, [3, 4])):
        assert not {*ten} & {*uniform_draws(*others, 10)}
    assert (uniform_draws("exit", 0, [1], 100_000) < 1).all()
