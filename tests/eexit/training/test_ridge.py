"""Ridge regressions are the closed form; their sums are the same wherever they are added."""

import pytest
import torch
from card import DEVICE, Card, Memory

from eexit.training import ridge
from eexit.training.ridge import PENALTIES, Moments, Ridge, SplitMoments, best_fit


def test_ridge_is_the_closed_form_and_draws_towards_its_prior() -> None:
    generator = torch.Generator().manual_seed(1)
    input_ND = torch.randn(50, 4, generator=generator).double() * torch.tensor([1.0, 10, 100, 0.1]) + 3
    target_NH = torch.randn(50, 2, generator=generator).double()
    sums, prior_DH = Moments.from_tokens(input_ND, target_NH), torch.ones(4, 2).double()
    centred = input_ND - input_ND.mean(0)
    std_D = centred.square().mean(0).sqrt()
    for penalty in (1e-6, 0.5):
        missing = target_NH - target_NH.mean(0) - centred @ prior_DH
        system = centred.mT @ centred / 50 + penalty * torch.diag(std_D**2)
        expected = prior_DH + torch.linalg.solve(system, centred.mT @ missing / 50)
        map_JH = Ridge(sums, prior_DH).fit(penalty)
        torch.testing.assert_close(map_JH[1:], expected)
        error = (target_NH - map_JH[0] - input_ND @ map_JH[1:]).square().sum(1).mean().item()
        assert sums.error(map_JH) == pytest.approx(error)
    torch.testing.assert_close(Ridge(sums, prior_DH).fit(1e12)[1:], prior_DH)


@pytest.mark.parametrize("is_slow", [False, True])
def test_sums_that_are_added_on_a_card_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch, is_slow: bool) -> None:
    """Where float64 is slow, float32 has few digits for inputs that are far from zero, as some of a stream are."""
    generator = torch.Generator().manual_seed(1)
    input_ND = torch.randn(1000, 8, generator=generator) + torch.tensor([0.0, 3, 1000, -1000, 1, 1, 1, 1])
    target_NH = input_ND[:, :3] + torch.randn(1000, 3, generator=generator)
    monkeypatch.setattr(ridge, "adds_in_float64", lambda device: device.type == "cpu" or not is_slow)
    expected, sums = SplitMoments(), SplitMoments()
    with Card() as card:
        for chooses in (False, True, False):
            expected.add("5", chooses, Moments.from_tokens(input_ND, target_NH))
            there = input_ND.to(DEVICE)
            card.pop_counts()
            sums.add("5", chooses, Moments.from_tokens(there, target_NH))
            assert card.pop_counts().to_host == 0, "it is added there"
        for found, wanted in zip(sums.moments_of("5"), expected.moments_of("5"), strict=True):
            torch.testing.assert_close(found.n, wanted.n)  # on the CPU
            torch.testing.assert_close(found.covariance_DD, wanted.covariance_DD, rtol=1e-4, atol=1e-4)
            map_JH = best_fit(wanted, wanted, [torch.zeros(8, 3).double()])
            assert found.error(map_JH) == pytest.approx(wanted.error(map_JH), rel=1e-4)


def test_sums_go_on_where_they_were_and_leave_room_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    input_ND, sums = torch.ones(4, 3), SplitMoments()
    with Card():
        sums.add("held", False, Moments.from_tokens(input_ND, input_ND))  # as from a state that was saved
        sums.add("held", False, Moments.from_tokens(input_ND.to(DEVICE), input_ND))
        monkeypatch.setattr(Memory, "taken", (1 << 30) - 400)
        sums.add("large", False, Moments.from_tokens(input_ND.to(DEVICE), input_ND))
        devices = {name: part.device.type for name, part in sums.tensors().items()}
    assert set(devices.values()) == {"cpu"}
    assert sums.tensors()["sums.held.learn.inputs_JJ"][0, 0] == 8
    with Card():
        assert isinstance(ridge.adds_in_float64(DEVICE), bool), "it is timed there"
    assert [ridge.adds_in_float64(torch.device(name)) for name in ("cpu", "mps")] == [True, False]


def test_what_is_noise_for_the_texts_that_choose_is_not_learned() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randn(40, 30, generator=generator) for _ in range(4)]
    learn, choose = Moments.from_tokens(noise[0], noise[1]), Moments.from_tokens(noise[2], noise[3])
    none = torch.zeros(30, 30).double()
    assert PENALTIES[-1] > 1
    weight_DH = best_fit(learn, choose, [none])[1:]
    assert weight_DH.norm() < 0.1 * Ridge(learn + choose, none).fit(PENALTIES[0])[1:].norm()
