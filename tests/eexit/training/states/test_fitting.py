"""What a regression finds is the closed form's, at any penalty and rank."""

import pytest
import torch
from torch import Tensor

from eexit.training.ridge import Axes, Ridge, SplitSums, Sums
from eexit.training.states.fitting import Fits, Regression, explained, linear_map

N, D, WIDTHS = 200, 6, (5, 4)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GIVEN_ND = normal(0, N, D) @ normal(1, D, D) + 3
TARGET_NH = GIVEN_ND @ normal(2, D, 9) + normal(3, 9) + 0.3 * normal(4, N, 9)


def regression(change: bool = False) -> Regression:
    return Regression("some", slice(0, 9), normal(5, D + 1, 9), WIDTHS, change)


def fits(n_learn: int = 150) -> Fits:
    sums = SplitSums()
    sums.add("some", False, Sums.of(GIVEN_ND[:n_learn], TARGET_NH[:n_learn]))
    sums.add("some", True, Sums.of(GIVEN_ND[n_learn:], TARGET_NH[n_learn:]))
    return Fits(sums)


def values(map_JH: Tensor) -> Tensor:
    return map_JH[0] + GIVEN_ND @ map_JH[1:]


def test_without_a_penalty_it_is_least_squares() -> None:
    sums, prior_DH = Sums.of(GIVEN_ND, TARGET_NH), normal(6, D, 9)
    with_one_NJ = torch.cat([torch.ones(N, 1, dtype=torch.float64), GIVEN_ND], 1)
    expected_JH = torch.linalg.lstsq(with_one_NJ, TARGET_NH).solution
    torch.testing.assert_close(Ridge(sums, prior_DH).fit(0.0), expected_JH)
    torch.testing.assert_close(Ridge(sums.targets(slice(2, 5)), prior_DH[:, 2:5]).fit(0.0), expected_JH[:, 2:5])
    axes = Axes.of(sums.targets(slice(0, 0)))
    assert torch.equal(Ridge(sums, prior_DH, axes).fit(0.1), Ridge(sums, prior_DH).fit(0.1))


def test_the_penalty_is_the_one_that_suits_the_texts_that_choose() -> None:
    fit = fits().of(regression())
    learn, choose = (Sums.of(GIVEN_ND[part], TARGET_NH[part]) for part in (slice(150), slice(150, None)))
    ridge = Ridge(learn, regression().prior_JH[1:])
    torch.testing.assert_close(fit.of_learn_JH, ridge.fit(fit.penalty))
    assert choose.error(fit.of_learn_JH) == min(choose.error(ridge.fit(10 ** (n / 2))) for n in range(-12, 5))
    torch.testing.assert_close(fit.of_all_JH, Ridge(learn + choose, regression().prior_JH[1:]).fit(fit.penalty))


@pytest.mark.parametrize("change", [False, True])
def test_a_rank_keeps_the_values_that_singular_values_say(change: bool) -> None:
    found, some = fits(), regression(change)
    whole_JH = found.of(some).of_all_JH
    torch.testing.assert_close(found.of_rank(some, whole_JH, D), whole_JH)
    low_JH = found.of_rank(some, whole_JH, 2)
    assert len(low_JH) == D + 1
    for low, whole, base in zip(*(part.split(WIDTHS, 1) for part in (low_JH, whole_JH, some.base_JH)), strict=True):
        assert torch.linalg.matrix_rank((low - base)[1:], rtol=1e-9) == 2
        changed_NH = values(whole) - values(base)
        left, size, right = torch.linalg.svd(changed_NH - changed_NH.mean(0), full_matrices=False)
        expected_NH = values(base) + changed_NH.mean(0) + left[:, :2] * size[:2] @ right[:2]
        torch.testing.assert_close(values(low), expected_NH)


def test_what_is_multiplied_is_the_map() -> None:
    low_JH = fits().of_rank(regression(), fits().of(regression()).of_all_JH, 2)[:, : WIDTHS[0]]
    whole, factored = linear_map(low_JH, None), linear_map(low_JH, 2)
    assert [weight.shape for weight in factored.weights] == [(D, 2), (2, WIDTHS[0])]
    for each in (whole, factored):
        torch.testing.assert_close(each(GIVEN_ND.float()), values(low_JH).float(), rtol=1e-4, atol=1e-4)


def test_the_share_explained_is_of_the_targets_variance() -> None:
    map_JH = fits().of(regression()).of_all_JH
    left = (TARGET_NH - values(map_JH)).square().sum() / (TARGET_NH - TARGET_NH.mean(0)).square().sum()
    assert explained(Sums.of(GIVEN_ND, TARGET_NH), map_JH) == pytest.approx(1 - left.item())
    mean_JH = torch.cat([TARGET_NH.mean(0)[None], torch.zeros(D, 9, dtype=torch.float64)])
    assert explained(Sums.of(GIVEN_ND, TARGET_NH), mean_JH) == pytest.approx(0, abs=1e-9)
