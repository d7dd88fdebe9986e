"""p-values of the hypothesis that a risk, the expected loss of a prompt, exceeds a bound, and numbers of prompts.

Losses lie in [0, 1], and prompts are independent draws. The sum of losses of 0 or 1 is binomial, and its exact tail is
the p-value. For other losses, a bet against the hypothesis is made prompt by prompt. Under it, the capital is ever
multiplied by p with probability 1 / p at most (Waudby-Smith and Ramdas 2024; `WSR` in Bates et al. 2021).

The choice of the test may depend on the definition of a loss, never on observed losses.

Shapes: … any leading axes; P prompts, in an order that does not depend on their losses.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import scipy  # imports its submodules on first use

POWER: Final = 0.8  # probability of a certificate with a number of prompts that suffices
MOST_PROMPTS: Final = 100_000  # limit of the search for a sufficient number
SIMULATED: Final = 400  # draws of losses, for the probability of a certificate
BISECTIONS: Final = 60
ROUNDING: Final = 1e-6  # tolerance of a solution, in prompts
MOST_BET: Final = 1.0  # above this, a loss of 1 could take all capital
RiskTest = Callable[[np.ndarray, float, float], np.ndarray]  # losses (…, P), bound, error → p-values (…)


def exact_binomial(loss_P: np.ndarray, at_most: float, error: float = 0.05) -> np.ndarray:
    """Return P(Bin(n, α) ≤ k) for k losses of 1 among n; the others are 0."""
    p_value: np.ndarray = scipy.special.bdtr(np.round(loss_P.sum(axis=-1, dtype=float)), loss_P.shape[-1], at_most)
    return p_value


def betting(loss_P: np.ndarray, at_most: float, error: float = 0.05) -> np.ndarray:
    """Return the p-value of the betting test that the mean loss is above α: 1 / the gambler's maximal capital.

    The capital starts at 1, and each prompt multiplies it by 1 − λ·(loss − α). The stake λ = min(1, √(2·log(1/δ) /
    (n·σ²))) depends only on earlier losses, by their variance σ². It is best if the p-value is near the error δ, and
    valid for any.
    """
    n = loss_P.shape[-1]
    t_P = np.arange(1, n + 1)
    mean_P = (0.5 + loss_P.cumsum(axis=-1)) / (t_P + 1)
    variance_P = (0.25 + ((loss_P - mean_P) ** 2).cumsum(axis=-1)) / (t_P + 1)
    before_P = np.concatenate([np.full((*loss_P.shape[:-1], 1), 0.25), variance_P[..., :-1]], axis=-1)
    stake_P = np.minimum(MOST_BET, np.sqrt(2 * math.log(1 / error) / (n * before_P)))
    log_capital = np.log1p(-stake_P * (loss_P - at_most)).cumsum(axis=-1).max(axis=-1)
    p_value: np.ndarray = np.exp(-np.maximum(log_capital, 0.0))
    return p_value


EXACT, BETTING = "exact", "betting"
RISK_TESTS: Final[dict[str, RiskTest]] = {EXACT: exact_binomial, BETTING: betting}


def upper_bound(test: RiskTest, loss_P: np.ndarray, confidence: float) -> float:
    """Return the upper confidence bound of the risk, by inverting the test."""
    low, high = float(loss_P.mean()), 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rejected = 0 < middle < 1 and test(loss_P, middle, 1 - confidence) <= 1 - confidence
        low, high = (low, middle) if rejected else (middle, high)
    return high


def prompts_without_loss(at_most: float, error: float) -> int:
    """Return the minimum number of prompts that certify `at_most` if none of them has a loss: (1 − α)ⁿ ≤ δ."""
    return math.ceil(math.log(error) / math.log1p(-at_most))


def prompts_needed(test: RiskTest, loss_P: np.ndarray, at_most: float, error: float) -> int | None:
    """Return the number of prompts that certify `at_most` with probability `POWER`, for losses distributed as these.

    None if no number suffices, or if it exceeds `MOST_PROMPTS`.
    """
    mean = float(loss_P.mean())
    if mean >= at_most:
        return None
    if test is exact_binomial:
        return prompts_for_loss(mean, at_most, error)
    low, high = 0, len(loss_P)
    while _power(test, loss_P, high, at_most, error) < POWER:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            return None
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        is_enough = _power(test, loss_P, middle, at_most, error) >= POWER
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def prompts_for_loss(mean: float, at_most: float, error: float) -> int | None:
    """Return the number of prompts that certify `at_most` by the exact test with probability `POWER`.

    Each prompt is lost with probability `mean`. For each number of lost prompts k, the minimum n that still certifies
    solves P(Bin(n, α) ≤ k) = error. None if no number suffices, or if it exceeds `MOST_PROMPTS`.
    """
    if mean >= at_most:
        return None
    lost_K = np.arange(math.ceil(MOST_PROMPTS * at_most))
    n_K = np.ceil(lost_K + scipy.special.btdtrib(lost_K + 1, 1 - error, at_most) - ROUNDING)
    n_K += scipy.stats.binom.cdf(lost_K, n_K, at_most) > error
    n_K = n_K[n_K <= MOST_PROMPTS]
    enough = scipy.stats.binom.cdf(lost_K[: len(n_K)], n_K, mean) >= POWER
    return int(n_K[enough.argmax()]) if enough.any() else None


def chance_of_certificate(mean: float, n: int | np.ndarray, at_most: float, error: float) -> np.ndarray:
    """Return the probability that the exact test certifies `at_most` with n prompts, each lost with chance `mean`."""
    most = most_losses(n, at_most, error)
    chance: np.ndarray = np.where(most >= 0, scipy.stats.binom.cdf(most, n, mean), 0.0)
    return chance


def loss_certified(n: int, at_most: float, error: float) -> float | None:
    """Return the maximum probability of a lost prompt at which n prompts certify `at_most` with probability `POWER`.

    P(Bin(n, p) ≤ k) = POWER is solved for p by the beta distribution, as in the interval of Clopper and Pearson. None
    if n prompts can't certify anything.
    """
    most = int(most_losses(n, at_most, error))
    return float(scipy.stats.beta.ppf(1 - POWER, most + 1, n - most)) if most >= 0 else None


def most_losses(n: int | np.ndarray, at_most: float, error: float) -> np.ndarray:
    """Return how many of n prompts may be lost if the exact test certifies `at_most`; −1 if n is too small."""
    most: np.ndarray = scipy.stats.binom.ppf(error, n, at_most)  # the least number whose tail is at least the error
    most -= scipy.stats.binom.cdf(most, n, at_most) > error
    return most


def _power(test: RiskTest, loss_P: np.ndarray, n: int, at_most: float, error: float) -> float:
    """Return the probability, by simulation, that `n` prompts with losses distributed as these certify `at_most`."""
    generator = np.random.default_rng(0)
    drawn = (loss_P[generator.integers(len(loss_P), size=(SIMULATED // 20, n))] for _ in range(20))
    return float(np.mean([test(losses, at_most, error) <= error for losses in drawn]))
