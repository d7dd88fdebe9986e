"""The training loop: blocks of texts in a seeded order, pass after pass, whatever is trained; then the artefact.

What a trainer has learned and how far the loop has come are saved together every so often. From there, the same
training goes on with the same blocks in the same order: an interrupted one has the result of an undisturbed one.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from random import Random
from typing import Final

from eexit.model.file_digests import sha256
from eexit.output.progress import Progress
from eexit.output.whole_files import publish, scratch_folder
from eexit.plan.artefacts import STATE, WEIGHTS, Card, write_card
from eexit.results.store.manifest import versions
from eexit.training.plan import TrainingPlan
from eexit.training.saving import Saved, load_state, read_saved, save_state, save_tensors
from eexit.training.setup import WAYS
from eexit.training.texts import Text, blocks, n_tokens
from eexit.training.trainer import Tables, Trainer

BLOCK_TOKENS: Final = 2048  # of answers: what streams are computed of at a time
SECONDS_BETWEEN_SAVES: Final = 30.0
CHECK_TOKENS: Final = 512  # of held-out answers that the loss is followed on
CHECKS: Final = 8  # of the held-out loss, over the whole training
MOST_ROWS: Final = 400  # of progress


class Training:
    """A trainer and how far it has come with its texts."""

    def __init__(self, trainer: Trainer, plan: TrainingPlan):
        """Goes on from the state in the plan's folder, which must be of the same identity, if there is one."""
        self.trainer, self.plan, self.options = trainer, plan, trainer.options
        self.check = blocks(plan.held_out, CHECK_TOKENS)[0]
        self.total = trainer.passes * n_tokens(plan.learn)  # tokens to learn from
        self.total = min(self.total, self.options.most_tokens or self.total)
        self.saved_at = time.monotonic()
        self._blocks = lru_cache(1)(self._blocks_of)
        self.saved = read_saved(plan.folder) or Saved(plan.identity)
        self.reached = self.saved.reached
        if self.reached.steps:
            trainer.restore(load_state(plan.folder))

    @property
    def done(self) -> bool:
        minutes = self.options.most_minutes
        if self.trainer.gains_too_little:
            return True
        return self.reached.tokens >= self.total or (minutes is not None and self.reached.seconds >= 60 * minutes)

    @property
    def share(self) -> float:
        """The fraction of the training that is done."""
        shares = [self.reached.tokens / max(self.total, 1)]
        if self.options.most_minutes is not None:
            shares.append(self.reached.seconds / (60 * self.options.most_minutes))
        return min(1.0, max(shares))

    def told(self) -> tuple[bool, Progress]:
        """Whether it is done, and how far it is, with the latest losses in nats, if there are any."""
        doing = [self.options.what]
        for name, column in (("loss", "loss"), ("held out", "held_out_loss")):
            known = [row[column] for row in self.reached.progress if row[column] is not None]
            doing += [f"{name} {each:.3f}" for each in known[-1:]]
        share = self.share
        return self.done, Progress(" · ".join(doing), self.reached.tokens, share, share > 0, with_rate=True)

    def advance(self, seconds: float) -> tuple[bool, Progress]:
        """Learn from block after block, for about so long; one block at least. Returns what `told` tells then."""
        began = time.monotonic()
        while not self.done:
            self._learn()
            if time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES:
                self.save()
            if time.monotonic() - began > seconds:
                break
        return self.told()

    def save(self) -> None:
        """Save the state. Raises `OSError`."""
        save_state(self.plan.folder, replace(self.saved, reached=self.reached), self.trainer.state())
        self.saved_at = time.monotonic()

    def finish(self) -> Card:
        """Measure what was learned on the held-out texts, and write the artefact: its files, then its card.

        Raises `OSError`.
        """
        self.trainer.finish()
        tables = self.trainer.tables(self.plan.held_out)
        card = self._card(tables, self._write_files())
        write_card(self.plan.folder, card)
        (self.plan.folder / STATE).unlink(missing_ok=True)
        return card

    def _card(self, tables: Tables, files: Mapping[str, str]) -> Card:
        plan, trainer, options = self.plan, self.trainer, self.options
        return Card(
            what=options.what,
            holds=WAYS[options.what].holds,
            model=dict(plan.model),
            dtype_asked=plan.dtype_asked,
            layers=options.layers,
            readout=options.readout,
            data=dict(plan.data),
            settings={**options.as_dict(), **trainer.found_options()},
            **tables,
            progress=[dict(row) for row in self.reached.progress],
            versions=versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=self.reached.seconds,
            files=dict(files),
        )

    def _write_files(self) -> dict[str, str]:
        """Write everything but the card; returns the SHA-256 of each file, by its place in the folder."""
        folder, digests = self.plan.folder, {}
        with scratch_folder(folder / WEIGHTS) as made:
            save_tensors(made / WEIGHTS, self.trainer.weights())
            self.trainer.save_further(made)
            for file in sorted(made.iterdir()):
                digests[file.name] = sha256([file])
                publish(file, folder / file.name)
        return digests

    def _learn(self) -> None:
        """Learn from the next block, and note what came of it."""
        if not self.reached.steps:
            self.trainer.follow(self.plan.held_out)
        began, before, share = time.monotonic(), self.reached, self.share
        of_pass = self._blocks(before.passes)
        block, is_last = of_pass[before.blocks], before.blocks + 1 == len(of_pass)
        loss = self.trainer.train(block)
        self.reached = replace(
            before,
            passes=before.passes + is_last,
            blocks=0 if is_last else before.blocks + 1,
            steps=before.steps + 1,
            tokens=before.tokens + n_tokens(block),
            seconds=before.seconds + time.monotonic() - began,
        )
        self.trainer.follow(self.plan.held_out)
        is_time = int(self.share * CHECKS) > int(share * CHECKS)
        held_out_loss = self.trainer.held_out_loss(self.check) if is_time else None
        if loss is not None or held_out_loss is not None:
            self._note(loss, held_out_loss)

    def _note(self, loss: float | None, held_out_loss: float | None) -> None:
        reached = self.reached
        row = {
            "step": reached.steps,
            "tokens": reached.tokens,
            "seconds": round(reached.seconds, 3),
            "loss": loss,
            "held_out_loss": held_out_loss,
        }
        # Of a long training, older rows are thinned out, so that the state stays small.
        rows = reached.progress if len(reached.progress) < MOST_ROWS else reached.progress[::2]
        self.reached = replace(reached, progress=(*rows, row))

    def _blocks_of(self, a_pass: int) -> list[list[Text]]:
        """The blocks of a pass, in its own order."""
        order = Random(f"{self.options.seed} {a_pass}").sample(self.plan.learn, len(self.plan.learn))
        return blocks(order, BLOCK_TOKENS)
