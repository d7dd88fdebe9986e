"""p-values of the hypothesis that a risk, the expected loss of a prompt, is above a bound, and what follows from them.

Losses lie in [0, 1], and prompts are independent draws. Of losses that are 0 or 1, the sum is binomial, and its exact
tail is the p-value. Of others, a bet against the hypothesis is made prompt by prompt: under it, the capital has no
chance above 1 / p to ever be multiplied by p (Waudby-Smith and Ramdas 2024; as `WSR` in Bates et al. 2021). The bound
of Hoeffding and Bentkus takes the mean alone; it stays for comparison.

Which test is used may depend on what a loss is, never on the losses that were seen.

Shapes: … any axes before, P prompts, in an order that does not depend on their losses.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import bdtr, xlogy
from scipy.stats import binom, norm

POWER: Final = 0.8  # the chance of a certificate that "n prompts would do" stands for
MOST_PROMPTS: Final = 100_000  # up to which a sufficient number is searched for
SIMULATED: Final = 400  # draws of losses, for the chance of a certificate
BISECTIONS: Final = 60
MOST_BET: Final = 1.0  # with more, a loss of 1 could take all capital
RiskTest = Callable[[np.ndarray, float, float], np.ndarray]  # losses (…, P), bound, error → p-values (…)


def exact_binomial(loss_P: np.ndarray, at_most: float, error: float = 0.05) -> np.ndarray:
    """P(Bin(n, α) ≤ k) for k losses of 1 among n, the others being 0."""
    p_value: np.ndarray = bdtr(np.round(loss_P.sum(axis=-1)), loss_P.shape[-1], at_most)
    return p_value


def betting(loss_P: np.ndarray, at_most: float, error: float = 0.05) -> np.ndarray:
    """1 / the greatest capital on the way, from 1 and prompt by prompt times 1 − λ·(loss − α).

    The stake λ = min(1, √(2·log(1/δ) / (n·σ²))) follows from the losses before it alone, by their variance σ². It is
    best where the p-value comes near the error δ, and valid for any.
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


def hoeffding_bentkus(loss_P: np.ndarray, at_most: float, error: float = 0.05) -> np.ndarray:
    """min(exp(−n·h(min(R̂, α), α)), e·P(Bin(n, α) ≤ ⌈n·R̂⌉)), at most 1, for a mean loss of R̂.

    h(a, b) = a·log(a/b) + (1−a)·log((1−a)/(1−b)). The tighter one of the inequalities of Hoeffding and of Bentkus
    (Bates et al. 2021, arXiv 2101.02703).
    """
    n, mean = loss_P.shape[-1], loss_P.mean(axis=-1)
    lower = np.minimum(mean, at_most)
    divergence = xlogy(lower, lower / at_most) + xlogy(1 - lower, (1 - lower) / (1 - at_most))
    # A mean of k losses of 1, times n, may come out as k + 1e-16, of which the ceiling would be k + 1.
    losses = np.ceil(np.round(n * mean, 9))
    p_value: np.ndarray = np.minimum(np.exp(-n * divergence), math.e * bdtr(losses, n, at_most)).clip(max=1)
    return p_value


EXACT, BETTING, HOEFFDING_BENTKUS = "exact", "betting", "hoeffding-bentkus"
RISK_TESTS: Final[dict[str, RiskTest]] = {EXACT: exact_binomial, BETTING: betting, HOEFFDING_BENTKUS: hoeffding_bentkus}


def upper_bound(test: RiskTest, loss_P: np.ndarray, confidence: float) -> float:
    """What the risk is at most, with this confidence: the p-value's inverse."""
    low, high = float(loss_P.mean()), 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rejected = 0 < middle < 1 and test(loss_P, middle, 1 - confidence) <= 1 - confidence
        low, high = (low, middle) if rejected else (middle, high)
    return high


def prompts_without_loss(at_most: float, error: float) -> int:
    """The least number of prompts that certify `at_most` if none of them has a loss: (1 − α)ⁿ ≤ δ."""
    return math.ceil(math.log(error) / math.log1p(-at_most))


def prompts_needed(test: RiskTest, loss_P: np.ndarray, at_most: float, error: float) -> int | None:
    """How many prompts would certify `at_most` with a chance of `POWER`, if their losses are distributed as these.

    None if no number would, and if more than `MOST_PROMPTS` would be needed.
    """
    mean = float(loss_P.mean())
    if mean >= at_most:
        return None
    if test is exact_binomial:
        n_N = np.arange(1, MOST_PROMPTS + 1)
        most_N = binom.ppf(error, n_N, at_most)  # losses; the least number whose tail is at least the error
        most_N -= binom.cdf(most_N, n_N, at_most) > error
        enough = np.where(most_N >= 0, binom.cdf(most_N, n_N, mean), 0.0) >= POWER
        return int(n_N[enough.argmax()]) if enough.any() else None
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


def _power(test: RiskTest, loss_P: np.ndarray, n: int, at_most: float, error: float) -> float:
    """The chance that `n` prompts with losses distributed as these certify `at_most`, by simulation."""
    generator = np.random.default_rng(0)
    drawn = (loss_P[generator.integers(len(loss_P), size=(SIMULATED // 20, n))] for _ in range(20))
    return float(np.mean([test(losses, at_most, error) <= error for losses in drawn]))


def prompts_for_margin(differing: float, margin: float) -> int:
    """How many paired prompts show with a chance of `POWER` that a setting is not worse than another by `margin`.

    That is if the two are equally good and differ on this share of prompts: by the normal approximation of the
    interval's lower end, n = (z₀.₉₇₅ + z₀.₈)²·share / margin² (Liu et al. 2002).
    """
    quantiles = norm.ppf(0.975) + norm.ppf(POWER)
    return math.ceil(differing * float(quantiles / margin) ** 2)
