"""The training loop, for whatever is trained: sums over blocks of texts, then a solve.

Only the sums and the number of blocks in them are saved, every `SECONDS_BETWEEN_SAVES`. An interrupted training resumes
from them with the next block, and its result equals that of an uninterrupted one, value for value.
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
from eexit.plan.artefacts import STATE, WEIGHTS, ArtefactCard, CardRow, write_card
from eexit.results.store.manifest import versions
from eexit.training.plan import TrainingPlan
from eexit.training.ridge import Moments, SplitMoments
from eexit.training.texts import TrainingText, blocks, n_tokens, parted
from eexit.training.trainer_inputs import WAYS
from eexit.training.training_checkpoint import TrainingCheckpoint, load_state, read_saved, save_state, save_tensors

BLOCK_TOKENS: Final = 2048  # answer tokens whose hidden states are computed at a time
SECONDS_BETWEEN_SAVES: Final = 30.0
MEASURED_TOKENS: Final = 2000  # at most, of held-out answers, for a card's table


class Trainer(Protocol):
    """Interface of a kind of training: the inputs and targets of its regressions, and its artefact."""

    def pairs(self, texts: Sequence[TrainingText]) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Yield each regression's name, inputs (N, D) and targets (N, H), for N tokens of these texts."""

    def solve(self, sums: SplitMoments) -> Mapping[str, Tensor]:
        """Return the artefact's tensors, fp32, from the sums over all texts."""

    def table(self, texts: Sequence[TrainingText]) -> list[CardRow]:
        """Return the card's rows, measured on held-out texts; call `solve` first."""


class Training:
    """A trainer, and its moments summed over the blocks of texts so far."""

    def __init__(self, trainer: Trainer, plan: TrainingPlan):
        """Resume from the checkpoint in the plan's folder, if any; its identity must be the plan's."""
        self.trainer, self.plan = trainer, plan
        self.blocks, self.total = blocks(plan.learn, BLOCK_TOKENS), n_tokens(plan.learn)
        self.saved = read_saved(plan.folder) or TrainingCheckpoint(plan.identity)
        self.reached, self.sums = self.saved.reached, SplitMoments()
        if self.reached.blocks:
            self.sums = SplitMoments.from_state(load_state(plan.folder))
        self.saved_at = time.monotonic()

    def status(self) -> tuple[bool, Progress]:
        """Return whether all blocks are in the sums, and the progress."""
        share = self.reached.tokens / self.total
        progress = Progress(self.plan.options.what, self.reached.tokens, share, share > 0, with_rate=True)
        return self.reached.blocks == len(self.blocks), progress

    def advance(self, seconds: float) -> tuple[bool, Progress]:
        """Process blocks of texts for about `seconds`, one at least, and save when due. Return the `status`."""
        began = time.monotonic()
        while self.reached.blocks < len(self.blocks):
            self._add(self.blocks[self.reached.blocks])
            if time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES:
                self.save()
            if time.monotonic() - began > seconds:
                break
        return self.status()

    @torch.inference_mode()
    def _add(self, block: Sequence[TrainingText]) -> None:
        began, before = time.monotonic(), self.reached
        for chooses, texts in parted(block):
            for name, input_ND, target_NH in self.trainer.pairs(texts):
                self.sums.add(name, chooses, Moments.from_tokens(input_ND, target_NH))
        seconds = before.seconds + time.monotonic() - began
        self.reached = replace(
            before, blocks=before.blocks + 1, tokens=before.tokens + n_tokens(block), seconds=seconds
        )

    def save(self) -> None:
        """Save a checkpoint. Raise `OSError` if it can't be written."""
        save_state(self.plan.folder, replace(self.saved, reached=self.reached), self.sums.tensors())
        self.saved_at = time.monotonic()

    def finish(self) -> ArtefactCard:
        """Solve the regressions, measure on held-out texts, write the artefact, and remove the checkpoint.

        The weights are written before the card. Raise `OSError` if a file can't be written.
        """
        plan, options, began = self.plan, self.plan.options, time.monotonic()
        weights = self.trainer.solve(self.sums)
        table = self.trainer.table(measured(plan.held_out))
        save_tensors(plan.folder / WEIGHTS, weights)
        card = ArtefactCard(
            what=options.what, holds=(WAYS[options.what].role,), model=dict(plan.model), dtype_asked=plan.dtype_asked,
            layers=options.layers, readout=options.readout, adapter=options.adapter, data=dict(plan.data),
            settings=options.as_dict(), table=table, versions=versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=self.reached.seconds + time.monotonic() - began,
            files={WEIGHTS: sha256([plan.folder / WEIGHTS])},
        )  # fmt: skip
        write_card(plan.folder, card)
        (plan.folder / STATE).unlink(missing_ok=True)
        return card


def measured(texts: Sequence[TrainingText]) -> list[TrainingText]:
    """Return a random sample of texts with at most `MEASURED_TOKENS` answer tokens; the last text may be cut."""
    drawn: list[TrainingText] = []
    for text in Random(0).sample(texts, len(texts)):
        if (room := MEASURED_TOKENS - n_tokens(drawn)) > 1:  # the first token has no exit
            drawn.append(replace(text, token_ids=text.token_ids[:room]))
    return drawn
