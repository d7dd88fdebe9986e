"""Text metrics without a judge, from the text's own tokens and log-probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq

from eexit.plan.runs import LENGTH


@dataclass(frozen=True)
class Agreement:
    """Agreement of a run with the prompt's `normal` run; shares are fractions of the longer of the two."""

    tokens_until_difference: int  # tokens before the first different one
    equal_share: float  # positions with the same token
    lcs_share: float  # longest common subsequence (LCS)


def perplexity(logprob_T: np.ndarray) -> float:
    """Return exp of the mean negative log-probability (nats) of the tokens under the full-depth model."""
    return math.exp(-float(np.mean(logprob_T, dtype=np.float64)))


def log_perplexity(perplexity_R: np.ndarray) -> np.ndarray:
    """Return the perplexities of runs as nats per token, for means (`mean_perplexity`)."""
    logarithm_R: np.ndarray = np.log(perplexity_R)
    return logarithm_R


def mean_perplexity(mean_log_perplexity: float) -> float:
    """Return the mean of perplexities, wherever one is reported: exp of their mean logarithm, the geometric mean.

    An arithmetic mean would depend mostly on the few texts with the highest perplexity.
    """
    with np.errstate(over="ignore"):
        return float(np.exp(mean_log_perplexity))


def disagreement(token_id_D: np.ndarray, final_token_id_D: np.ndarray) -> float | None:
    """Return the share of a run's decided tokens that are not the full-depth model's likeliest token on the same text.

    None if no token was decided.
    """
    return float((token_id_D != final_token_id_D).mean()) if len(token_id_D) else None


def agreement(tokens: np.ndarray, normal: np.ndarray) -> Agreement:
    """Compare generated token ids with the token ids of the `normal` run."""
    shorter, longer = sorted((len(tokens), len(normal)))
    equal = tokens[:shorter] == normal[:shorter]
    until = shorter if equal.all() else int(equal.argmin())
    common = LCSseq.similarity(tokens.tolist(), normal.tolist())
    return Agreement(until, float(equal.sum()) / longer, common / longer)


def cut(finish_reason_R: Sequence[str | None], is_marked_R: np.ndarray) -> np.ndarray:
    """Return 1 for each text that `max_new_tokens` cut off, else 0. The mean is the share of cut texts.

    If any text is graded (`is_marked_R`), ungraded texts are NaN. So the share covers the same texts as the accuracy,
    in which a cut text counts as wrong.
    """
    is_cut_R = np.array([reason == LENGTH for reason in finish_reason_R], dtype=float)
    shown_R: np.ndarray = np.where(is_marked_R | (not is_marked_R.any()), is_cut_R, np.nan)
    return shown_R


def distinct(tokens: Sequence[int], n: int) -> float | None:
    """Return distinct-n: distinct n-grams over all n-grams (Li et al. 2016); None without n-grams."""
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def longest_loop(tokens: np.ndarray) -> int:
    """Return the length in tokens of the longest stretch that repeats a sequence of tokens at least twice; else 0."""
    longest = 0
    for period in range(1, len(tokens) // 2 + 1):
        repeats = _longest_run(tokens[period:] == tokens[:-period])
        if repeats >= period:
            longest = max(longest, repeats + period)
    return longest


def loop_share(longest_loop_R: np.ndarray, n_tokens_R: np.ndarray) -> np.ndarray:
    """Return each text's share of tokens in its longest loop; NaN for a text without tokens."""
    shares_R: np.ndarray = longest_loop_R / np.where(n_tokens_R > 0, n_tokens_R, np.nan)
    return shares_R


def _longest_run(flags: np.ndarray) -> int:
    """Return the length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
