"""The best saving among options whose mean loss keeps a bound, and how sure that is.

Prompts may be shared out among options by chance, full depth among them, as long as the mean loss keeps the bound.
Then a setting that loses a little more than the bound is worth a little less, not nothing: which settings happened to
be tried, and on which side of the bound a loss lies that few prompts can't tell, decides less.

A maximum of noisy means is too high, and a loss that few prompts show may be larger. So shares are chosen on other
prompts than they are measured on (five folds, each by the other four), and what is lost in all folds is a mean over all
prompts. Three mixtures are told: `found`, at that mean; `least`, chosen by upper limits of losses and scaled down to
keep the bound at the upper limit of what it lost itself; and `most`, the best of all if every loss were at its lower
limit, which needs no allowance for the number of options: it is as much as that of the truly best one at least.

Shapes: O options, P prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from eexit.quality.intervals import of_shares

FOLDS: Final = 5


@dataclass(frozen=True, eq=False)
class Option:
    """What a setting saves and loses, prompt by prompt. The mean of `saved_P` is its saving, a share of full depth.
    Where a loss is known within limits alone, `least_loss_P` and `most_loss_P` differ.
    """

    key: str
    saved_P: np.ndarray
    least_loss_P: np.ndarray
    most_loss_P: np.ndarray


class SavedByPrompt(NamedTuple):
    """A saving prompt by prompt, of prompts of a `sample`; `key` is the option that has most of them."""

    sample: str
    key: str | None
    saved_P: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.saved_P.mean())


class Best(NamedTuple):
    """The best saving at a bound: at least, as it was found, and at most."""

    least: SavedByPrompt
    found: SavedByPrompt
    most: SavedByPrompt

    @classmethod
    def known(cls, sample: str, key: str | None, saved_P: np.ndarray) -> "Best":
        """Of an option whose loss is no question."""
        return cls(*[SavedByPrompt(sample, key, saved_P)] * 3)


def most_of(bests: Sequence[Best]) -> Best:
    """What is most of all of these."""
    return Best(*(max(each, key=lambda saved: saved.mean) for each in zip(*bests, strict=True)))


def best_of(sample: str, options: Sequence[Option], at_most: float) -> Best | None:
    """The best saving at a mean loss of at most so much; None without options."""
    if not options:
        return None
    saved_OP, least_OP, most_OP = (
        np.stack([getattr(option, name) for option in options]) for name in ("saved_P", "least_loss_P", "most_loss_P")
    )
    share_O = mixture(saved_OP.mean(axis=1), most_OP.mean(axis=1), at_most)
    key = options[int(share_O.argmax())].key if share_O.any() else None
    found_P, lost_P = _chosen_elsewhere(saved_OP, most_OP, at_most, lambda loss_OP: loss_OP.mean(axis=1))
    least_P, surely_lost_P = _chosen_elsewhere(saved_OP, most_OP, at_most, lambda loss_OP: of_shares(loss_OP)[1])
    least_P = least_P * _scale(float(of_shares(surely_lost_P[None])[1][0]), at_most)
    found_P = found_P * _scale(float(lost_P.mean()), at_most)
    most_P = mixture(saved_OP.mean(axis=1), of_shares(least_OP)[0], at_most) @ saved_OP
    return Best(*(SavedByPrompt(sample, key, saved_P) for saved_P in (least_P, found_P, most_P)))


def mixture(saved_O: np.ndarray, loss_O: np.ndarray, at_most: float) -> np.ndarray:
    """The shares of prompts by option that save most at a mean loss of `at_most`, (O,); full depth has the rest.

    From full depth on, it is the option that saves most for what it loses more, until the bound is reached: the upper
    hull of what options save against what they lose.
    """
    share_O, at = np.zeros(len(saved_O)), -1
    saved, loss = 0.0, 0.0
    while True:
        gain_O, more_O = saved_O - saved, np.maximum(loss_O - loss, 0)
        slope_O = np.divide(gain_O, more_O, out=np.where(gain_O > 0, np.inf, -np.inf), where=more_O > 0)
        best = int(np.lexsort((gain_O, slope_O))[-1])
        room = (at_most - loss) / more_O[best] if more_O[best] > 0 else 1.0
        part = min(1.0, room) if gain_O[best] > 0 else 0.0
        if part < 1:
            share_O[best] += part
            if at >= 0:
                share_O[at] += 1 - part
            return share_O
        at, saved, loss = best, float(saved_O[best]), max(loss, float(loss_O[best]))


def _chosen_elsewhere(
    saved_OP: np.ndarray, loss_OP: np.ndarray, at_most: float, limits: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What each prompt saves and loses, (P,), by the mixture that is best for the other folds."""
    n = saved_OP.shape[1]
    saved_P, loss_P, fold_P = np.zeros(n), np.zeros(n), np.arange(n) % FOLDS
    for fold in range(min(FOLDS, n)):
        here_P = fold_P == fold
        share_O = mixture(saved_OP[:, ~here_P].mean(axis=1), limits(loss_OP[:, ~here_P]), at_most)
        share_O /= share_O.sum() or 1.0  # what full depth has follows from what is lost here
        saved_P[here_P], loss_P[here_P] = share_O @ saved_OP[:, here_P], share_O @ loss_OP[:, here_P]
    return saved_P, loss_P


def _scale(loss: float, at_most: float) -> float:
    """The share of prompts that may be left to what loses so much, so that the mean loss keeps the bound."""
    return min(1.0, at_most / loss) if loss > 0 else 1.0
