"""The loop: every text once a pass, in a seeded order; interrupted, it goes on with the same blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eexit.errors import UsageError
from eexit.plan.artefacts import STATE
from eexit.plan.config import Prompt, SweepConfig
from eexit.training import loop
from eexit.training.loop import Training
from eexit.training.plan import TrainingPlan
from eexit.training.saving import read_saved
from eexit.training.setup import TrainingOptions
from eexit.training.texts import Text
from eexit.training.trainer import Tables, Trainer

TEXTS = [Text(str(number), (number,), (7,) * 5) for number in range(12)]
CHECK = [Text("held out", (99,), (7,) * 5, held_out=True)]


class Remembers(Trainer):
    """A trainer that learns which texts it was given, in order."""

    passes = 3

    def __init__(self, options: TrainingOptions):
        self.options, self.given = options, torch.zeros(0)

    def train(self, block: Sequence[Text]) -> float | None:
        self.given = torch.cat([self.given, torch.tensor([float(text.prompt_id) for text in block])])
        return float(len(self.given))

    def state(self) -> dict[str, Tensor]:
        return {"given": self.given}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.given = state["given"]

    def weights(self) -> dict[str, Tensor]:
        return self.state()

    def held_out_loss(self, texts: Sequence[Text]) -> float | None:
        assert texts == CHECK
        return 0.5

    def tables(self, texts: Sequence[Text]) -> Tables:
        return {}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BLOCK_TOKENS", 20)  # four texts


def training(folder: Path, **options: float) -> Training:
    trainer = Remembers(TrainingOptions("tuned", (1,), **options))  # type: ignore[arg-type]
    config = SweepConfig(prompts=(Prompt(id="0", prompt="?"),))
    return Training(trainer, TrainingPlan(config, {}, trainer.options, TEXTS, CHECK, {}, folder))


def given(its: Training) -> list[float]:
    trainer = its.trainer
    assert isinstance(trainer, Remembers)
    return list(trainer.given.tolist())


def test_every_pass_has_every_text_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    its = training(tmp_path)
    its.advance(seconds=60)
    assert its.done
    passes = [given(its)[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(each) == list(range(12)) for each in passes)
    assert passes[0] != passes[1] != passes[2]
    other = training(tmp_path / "other", seed=1)
    other.advance(seconds=60)
    assert given(other) != given(its)
    rows = its.reached.progress
    assert [row["loss"] for row in rows] == [4 * step for step in range(1, 10)]
    assert sum(row["held_out_loss"] == 0.5 for row in rows) == loop.CHECKS
    assert (its.reached.tokens, its.reached.passes, its.share) == (180, 3, 1.0)


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = training(tmp_path)
    whole.advance(seconds=60)
    for _ in range(9):  # each in a process of its own, as it were, one block at a time
        part = training(tmp_path)
        part.advance(seconds=0)
        part.save()
    assert part.done
    assert given(part) == given(whole)
    assert [{**row, "seconds": 0} for row in part.reached.progress] == [
        {**row, "seconds": 0} for row in whole.reached.progress
    ]


def test_what_was_not_saved_is_done_again(tmp_path: Path) -> None:
    its = training(tmp_path)
    its.advance(seconds=0)
    its.save()
    its.advance(seconds=0)  # and then it is killed
    again = training(tmp_path)
    assert given(again) == given(its)[:4]
    again.advance(seconds=60)
    its.advance(seconds=60)
    assert given(again) == given(its)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_limits_end_it(tmp_path: Path) -> None:
    few = training(tmp_path, most_tokens=50)
    few.advance(seconds=60)
    assert len(given(few)) == 12, "after the block that reaches the limit"
    short = training(tmp_path, most_minutes=1e-9)
    short.advance(seconds=60)
    assert len(given(short)) == 4


def test_a_damaged_state_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(UsageError, match=r"is no state of a training \(.*\): remove it, or choose another --out"):
        read_saved(tmp_path)
