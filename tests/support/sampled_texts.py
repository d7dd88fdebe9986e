"""The probability of each text under plain sampling, and a test of texts against it."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from scipy.stats import chi2
from transformers import PreTrainedModel

from eexit.decode.requests import Decoding
from eexit.decode.sampling import distribution

Text = tuple[int, ...]


def sequences(model: PreTrainedModel, prompt: Text, decoding: Decoding) -> dict[Text, float]:
    """Return the probability of every text that plain sampling may write."""
    found: dict[Text, float] = {(): 1.0}
    for _ in range(decoding.max_new_tokens):
        longer: dict[Text, float] = {}
        with torch.inference_mode():
            logits_BTV = model(torch.tensor([[*prompt, *text] for text in found])).logits
        p_BV = distribution(logits_BTV[:, -1], decoding.temperature, decoding.top_p)
        for (text, before), p_V in zip(found.items(), p_BV, strict=True):
            longer |= {(*text, token): before * float(p_V[token]) for token in p_V.nonzero()[:, 0].tolist()}
        found = longer
    return found


def are_distributed_so(texts: Iterable[Text], probabilities: dict[Text, float]) -> bool:
    """Return True if a χ² test at 0.001 accepts the texts. Texts expected fewer than five times count together."""
    wrote = Counter(texts)
    expected = np.array(list(probabilities.values())) * wrote.total()
    seen = np.array([wrote[text] for text in probabilities])
    often = expected >= 5
    expected, seen = (np.append(its[often], its[~often].sum()) for its in (expected, seen))
    assert len(expected) > 10
    statistic = ((seen - expected) ** 2 / expected.clip(1e-9)).sum()
    return bool(statistic <= chi2.ppf(0.999, len(expected) - 1))
