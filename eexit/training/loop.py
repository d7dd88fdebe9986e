"""How a training goes: sums over blocks of texts, block after block, then a solve; whatever is trained.

The sums, and how many blocks are in them, are saved every so often, and that is all the state there is. From there, the
same training goes on with the next block: an interrupted one has the result of an undisturbed one, value for value.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Final, Protocol

import torch
from torch import Tensor

from eexit.model.sources import sha256
from eexit.output.progress import Progress
from eexit.plan.artefacts import STATE, WEIGHTS, Card, CardRow, write_card
from eexit.results.store.manifest import versions
from eexit.training.plan import TrainingPlan
from eexit.training.ridge import SplitSums, Sums
from eexit.training.saving import Saved, load_state, read_saved, save_state, save_tensors
from eexit.training.setup import WAYS
from eexit.training.texts import Text, blocks, n_tokens, parted

BLOCK_TOKENS: Final = 2048  # of answers: what streams are computed of at a time
SECONDS_BETWEEN_SAVES: Final = 30.0
MEASURED_TOKENS: Final = 2000  # of held-out answers, at most, that a card's table is of


class Trainer(Protocol):
    """A way to train: which inputs, which targets, and what the artefact holds."""

    def pairs(self, texts: Sequence[Text]) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Of each regression its name, and the inputs (N, D) and targets (N, H) of N tokens of these texts."""

    def solve(self, sums: SplitSums) -> Mapping[str, Tensor]:
        """The tensors of the artefact, fp32, from the sums over all texts."""

    def table(self, texts: Sequence[Text]) -> list[CardRow]:
        """The card's table, of texts that nothing was learned from; once it is solved."""


class Training:
    """A trainer, and the sums over the blocks of texts that it has seen."""

    def __init__(self, trainer: Trainer, plan: TrainingPlan):
        """Goes on from the state in the plan's folder, which must be of the same identity, if there is one."""
        self.trainer, self.plan = trainer, plan
        self.blocks, self.total = blocks(plan.learn, BLOCK_TOKENS), n_tokens(plan.learn)
        self.saved = read_saved(plan.folder) or Saved(plan.identity)
        self.reached, self.sums = self.saved.reached, SplitSums()
        if self.reached.blocks:
            self.sums = SplitSums.from_state(load_state(plan.folder))
        self.saved_at = time.monotonic()

    def told(self) -> tuple[bool, Progress]:
        """Whether all blocks are in the sums, and how far it is."""
        reached = self.reached
        share = reached.tokens / self.total
        progress = Progress(self.plan.options.what, reached.tokens, share, share > 0, with_rate=True)
        return reached.blocks == len(self.blocks), progress

    def advance(self, seconds: float) -> tuple[bool, Progress]:
        """Add up block after block, for about so long; one block at least. Returns what `told` tells then."""
        began = time.monotonic()
        while self.reached.blocks < len(self.blocks):
            self._add(self.blocks[self.reached.blocks])
            if time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES:
                self.save()
            if time.monotonic() - began > seconds:
                break
        return self.told()

    @torch.inference_mode()
    def _add(self, block: Sequence[Text]) -> None:
        began, before = time.monotonic(), self.reached
        for chooses, texts in parted(block):
            for name, input_ND, target_NH in self.trainer.pairs(texts):
                self.sums.add(name, chooses, Sums.of(input_ND, target_NH))
        seconds = before.seconds + time.monotonic() - began
        self.reached = replace(
            before, blocks=before.blocks + 1, tokens=before.tokens + n_tokens(block), seconds=seconds
        )

    def save(self) -> None:
        """Save the state. Raises `OSError`."""
        save_state(self.plan.folder, replace(self.saved, reached=self.reached), self.sums.state())
        self.saved_at = time.monotonic()

    def finish(self) -> Card:
        """Solve, measure on held-out texts, and write the artefact: its weights, then its card. Raises `OSError`."""
        plan, options, began = self.plan, self.plan.options, time.monotonic()
        weights = self.trainer.solve(self.sums)
        table = self.trainer.table(measured(plan.held_out))
        save_tensors(plan.folder / WEIGHTS, weights)
        card = Card(
            what=options.what,
            holds=(WAYS[options.what].role,),
            model=dict(plan.model),
            dtype_asked=plan.dtype_asked,
            layers=options.layers,
            readout=options.readout,
            adapter=options.adapter,
            data=dict(plan.data),
            settings=options.as_dict(),
            table=table,
            versions=versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=self.reached.seconds + time.monotonic() - began,
            files={WEIGHTS: sha256([plan.folder / WEIGHTS])},
        )
        write_card(plan.folder, card)
        (plan.folder / STATE).unlink(missing_ok=True)
        return card


def measured(texts: Sequence[Text]) -> list[Text]:
    """Texts of `MEASURED_TOKENS` at most, drawn from these; the last one may be shortened."""
    drawn: list[Text] = []
    for text in Random(0).sample(texts, len(texts)):
        if (room := MEASURED_TOKENS - n_tokens(drawn)) > 1:  # the first token has no exit
            drawn.append(replace(text, token_ids=text.token_ids[:room]))
    return drawn
