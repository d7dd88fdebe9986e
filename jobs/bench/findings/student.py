"""The section of FINDINGS.md on a model whose own layers were taught to say early what it says at the end."""

from functools import cache

import pandas as pd

from findings import words
from findings.study import STUDENT, card
from findings.words import percent_of, table_of


@cache
def _curve() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the student says of held-out texts, by the tokens that it has learned from: its agreement with full depth by
    layer, the final one last, and all that is of all layers together.
    """
    rows = pd.DataFrame(card(STUDENT)["learning"])
    by_layer = rows.dropna(subset="layer").astype({"layer": int})
    agreement = by_layer.pivot(index="tokens", columns="layer", values="agreement")
    return agreement, rows[rows.layer.isna()].set_index("tokens")


def section() -> str:
    """What teaching the model's own layers gains beside readouts alone, and what it changes of full depth."""
    agreement, whole = _curve()
    *exitable, final = agreement.columns
    rows = [
        [
            f"{tokens:,}", f"{whole.seconds[tokens] / 60:.0f}",
            *map(percent_of, agreement.loc[tokens]), percent_of(whole.skipped[tokens]),
        ]
        for tokens in whole.index
    ]  # fmt: skip
    last, kept, gained = whole.iloc[-1], agreement[final].iloc[-1], agreement.iloc[-1] - agreement.iloc[0]
    told = ", ".join(f"{100 * gained[layer]:+z.1f} at layer {layer}" for layer in exitable)
    tokens = whole.index[-1]
    half = abs(whole.index - tokens / 2).argmin()
    doubling = agreement.iloc[-1] - agreement.iloc[half]
    return f"""
## What teaching the model changes

A student ([how](../../jobs/README.md#exits-that-learn)) learns in an adapter on the model's own layers to say early
what the model says at the end. Of {last.n:,.0f} held-out tokens, how often a layer's likeliest token is that of
the model at full depth, read through linear readouts learned on the same texts; the first row is of these readouts
alone. Skipped: of all layers, if each token left at the first layer that says the same.

{table_of(["tokens", "minutes", *(f"layer {layer}" for layer in exitable), f"final, {final}", "skipped"], rows)}

Beside readouts alone, {tokens:,} tokens change the agreement, in points, by {told}; the final layer keeps
{percent_of(kept)} of the tokens. So this student {words.teaching(kept, gained[words.TAUGHT])} (asked:
{percent_of(words.FINAL_STAYS)} kept and {100 * words.LEAST_GAIN:.0f} points gained at layer {words.TAUGHT}, where the
last doubling of the tokens gained {100 * doubling[words.TAUGHT]:z.1f}). It learned
from {tokens / last.seconds:.1f} tokens/s; its products alone would have taken {percent_of(last.multiplying)} of the
time. The learning rate falls at the end only, so that points before it are below what as many tokens alone would give.
"""


def summary() -> str:
    """What README says of it."""
    agreement, _ = _curve()
    tokens, layer, final = agreement.index[-1], words.TAUGHT, agreement.columns[-1]
    return f"""
- What would training change? A student is the model with an adapter that learns to say early what the model says at the
  end. After {tokens:,} tokens its layer {layer} agrees with the model's full depth on
  {percent_of(agreement[layer].iloc[-1])} of held-out tokens, where readouts alone agree on
  {percent_of(agreement[layer].iloc[0])}; its own full depth agrees on {percent_of(agreement[final].iloc[-1])}
  ([more](reports/sample/FINDINGS.md#what-teaching-the-model-changes)).
"""
