"""Intervals at the level `LEVEL`, and the test of paired answers, each in closed form.

Shares have the exact interval of Clopper and Pearson (1934), which holds at 0, at 1 and for few prompts. Differences of
paired shares have that of Bonett and Price (2012), which needs no more than the differences, and which Fagerland,
Lydersen and Laake (2014) recommend beside Newcombe's. Where prompts are lost in part, as the mean of seeds is, both
take as many prompts as would vary as much if each were lost or not (Korn and Graubard 1998). A percentile bootstrap of
the same values is too narrow with few prompts and near an edge, and certain of what it never saw.

Shapes: P prompts, R rounds.
"""

import math
from typing import Final

import numpy as np
import scipy  # which imports its parts at their first use

LEVEL: Final = 0.95
TAILS: Final = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)
NORMAL_TAIL: Final = 1.959963984540054  # the standard normal quantile of TAILS[1]
MOST_EFFECTIVE: Final = 1e9  # prompts that the same value off the edge of all prompts stands for
Ends = tuple[float, float]


def of_share(values_P: np.ndarray) -> Ends:
    """The interval of a mean of values in [0, 1]."""
    low_1, high_1 = of_shares(values_P[None])
    return float(low_1[0]), float(high_1[0])


def of_shares(values_XP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals of the means of X such columns, (X,) each."""
    mean_X = values_XP.mean(axis=1)
    effective_X = np.full(len(mean_X), values_XP.shape[1], dtype=float)
    for at in np.flatnonzero((values_XP != np.round(values_XP)).any(axis=1)):
        effective_X[at] = _as_many(mean_X[at] * (1 - mean_X[at]), values_XP[at])
    return _exact(mean_X * effective_X, (1 - mean_X) * effective_X)


def clopper_pearson(successes: float, n: float) -> Ends:
    """The exact interval of a share, given how many of `n` it was; neither need be whole."""
    low, high = _exact(np.array(successes), np.array(n - successes))
    return float(low), float(high)


def _exact(successes: np.ndarray, failures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper's and Pearson's: quantiles of beta distributions, without what `scipy.stats` looks at before."""
    low = np.where(successes > 0, scipy.special.betaincinv(successes, failures + 1, TAILS[0]), 0.0)
    high = np.where(failures > 1e-9, scipy.special.betaincinv(successes + 1, failures, TAILS[1]), 1.0)
    return low, high


def of_difference(values_P: np.ndarray) -> Ends:
    """The interval of a mean of differences of two shares, in [−1, 1]."""
    n, gained, lost = len(values_P), values_P.clip(min=0).mean(), -values_P.clip(max=0).mean()
    effective = _as_many(gained + lost - (gained - lost) ** 2, values_P) if _are_parts(values_P) else n
    return bonett_price(gained * effective, lost * effective, effective)


def bonett_price(gained: float, lost: float, n: float) -> Ends:
    """The interval of a difference of paired shares, (gained − lost) / n."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = NORMAL_TAIL * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return float(max(up - down - half, -1.0)), float(min(up - down + half, 1.0))


def _are_parts(values_P: np.ndarray) -> bool:
    """Whether any value is not whole."""
    return bool((values_P != np.round(values_P)).any())


def _as_many(whole_variance: float, values_P: np.ndarray) -> float:
    """How many whole values, with this variance, say as much as these; fewer, as their variance is itself estimated."""
    n = len(values_P)
    if n == 1:  # which doesn't say how much they vary
        return 0.0
    variance = float(values_P.var(ddof=1))
    spread = float(NORMAL_TAIL / scipy.special.stdtrit(n - 1, TAILS[1])) ** 2
    return min(whole_variance / (variance / n) * spread, MOST_EFFECTIVE) if variance else MOST_EFFECTIVE


def student(mean: float, variance: float, n: int) -> Ends:
    """Student's interval of a mean of `n` values with this sample variance."""
    half = float(scipy.special.stdtrit(n - 1, TAILS[1])) * math.sqrt(variance / n)
    return mean - half, mean + half


def of_quotient(values_PK: np.ndarray, sign_K: np.ndarray) -> Ends:
    """The interval of a product of means and of inverses of means, as the signs of the K columns say, all above 0.

    It is Student's of the linearised logarithm. Costs are skewed, and so are inverses: with 50 prompts whose costs have
    a skewness of 4, it covers 93 to 96 %, and with one of 6 it covers 92 to 96 %. That of the quotient itself,
    linearised, covers 92 % with a skewness of 4. Fieller's covers as much as that, and is of one ratio alone; a
    bootstrap-t of the logarithm covers 92 to 93 % of a ratio of two.
    """
    mean_K = values_PK.mean(axis=0)
    change_P = (values_PK / mean_K) @ sign_K
    low, high = student(float(sign_K @ np.log(mean_K)), float(change_P.var(ddof=1)), len(values_PK))
    return math.exp(low), math.exp(high)


def of_median(values_R: np.ndarray) -> Ends | None:
    """The exact interval of a median: the narrowest pair of order statistics that covers it (the sign test's).

    None below six values: the range from the least to the greatest of five covers 93.75 %.
    """
    n = len(values_R)
    rank = int((scipy.special.bdtr(np.arange(n), n, 0.5) < TAILS[0]).sum())  # the binomial's quantile
    if rank == 0:
        return None
    ordered = np.sort(values_R)
    return float(ordered[rank - 1]), float(ordered[-rank])


def mcnemar(gained: int, lost: int) -> float:
    """The exact p-value of McNemar's test (1947): of gains and losses being equally likely. 1 where there are none."""
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
