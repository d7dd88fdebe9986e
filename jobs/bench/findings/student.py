"""The section of FINDINGS.md on a model whose own layers were taught to say early what it says at the end."""

from dataclasses import dataclass
from typing import Any

from findings import words
from findings.study import STUDENT, card
from findings.words import percent_of, table_of


@dataclass(frozen=True)
class TaughtModel:
    """The student's learning curve: what it says of held-out texts, by the tokens that it has learned from."""

    whole: dict[int, dict[str, Any]]  # of all layers together, the latest last
    agreement: dict[tuple[int, int], float]  # with full depth, by tokens and layer
    layers: tuple[int, ...]  # the final one last

    @classmethod
    def read(cls) -> "TaughtModel":
        rows = card(STUDENT)["learning"]
        agreement = {(row["tokens"], row["layer"]): row["agreement"] for row in rows if row["layer"] is not None}
        whole = {row["tokens"]: row for row in rows if row["layer"] is None}
        return cls(whole, agreement, tuple(dict.fromkeys(layer for _, layer in agreement)))

    @property
    def last(self) -> dict[str, Any]:
        return self.whole[max(self.whole)]

    @property
    def kept(self) -> float:
        """The share of the tokens that its final layer says as the model does."""
        return self.agreement[self.last["tokens"], self.layers[-1]]

    def last_doubling(self, layer: int) -> float:
        """What its agreement gained since about half the tokens."""
        last = self.last["tokens"]
        half = min(self.whole, key=lambda tokens: abs(tokens - last / 2))
        return self.agreement[last, layer] - self.agreement[half, layer]

    def gain(self, layer: int) -> float:
        """How much more often a layer agrees in the end than by readouts alone."""
        return self.agreement[self.last["tokens"], layer] - self.agreement[0, layer]


def section() -> str:
    """What teaching the model's own layers gains beside readouts alone, and what it changes of full depth."""
    curve = TaughtModel.read()
    *exitable, final = curve.layers
    rows = [
        [
            f"{tokens:,}", f"{whole['seconds'] / 60:.0f}",
            *(percent_of(curve.agreement[tokens, layer]) for layer in curve.layers), percent_of(whole["skipped"]),
        ]
        for tokens, whole in curve.whole.items()
    ]  # fmt: skip
    told = ", ".join(f"{100 * curve.gain(layer):+z.1f} at layer {layer}" for layer in exitable)
    tokens, seconds = curve.last["tokens"], curve.last["seconds"]
    return f"""
## What teaching the model changes

A student ([how](../../jobs/README.md#exits-that-learn)) learns in an adapter on the model's own layers to say early
what the model says at the end. Of {curve.last["n"]:,} held-out tokens, how often a layer's likeliest token is that of
the model at full depth, read through linear readouts learned on the same texts; the first row is of these readouts
alone. Skipped: of all layers, if each token left at the first layer that says the same.

{table_of(["tokens", "minutes", *(f"layer {layer}" for layer in exitable), f"final, {final}", "skipped"], rows)}

Beside readouts alone, {tokens:,} tokens change the agreement, in points, by {told}; the final layer keeps
{percent_of(curve.kept)} of the tokens. So this student {words.teaching(curve.kept, curve.gain(words.TAUGHT))} (asked:
{percent_of(words.FINAL_STAYS)} kept and {100 * words.LEAST_GAIN:.0f} points gained at layer {words.TAUGHT}, where the
last doubling of the tokens gained {100 * curve.last_doubling(words.TAUGHT):z.1f}). It learned
from {tokens / seconds:.1f} tokens/s; its products alone would have taken {percent_of(curve.last["multiplying"])} of the
time. The learning rate falls at the end only, so that points before it are below what as many tokens alone would give.
"""


def summary() -> str:
    """What README says of it."""
    curve = TaughtModel.read()
    tokens, layer = curve.last["tokens"], words.TAUGHT
    return f"""
- What would training change? A student is the model with an adapter that learns to say early what the model says at the
  end. After {tokens:,} tokens its layer {layer} agrees with the model's full depth on
  {percent_of(curve.agreement[tokens, layer])} of held-out tokens, where readouts alone agree on
  {percent_of(curve.agreement[0, layer])}; its own full depth agrees on {percent_of(curve.kept)}
  ([more](reports/sample/FINDINGS.md#what-teaching-the-model-changes)).
"""
