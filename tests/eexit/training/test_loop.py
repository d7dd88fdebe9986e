"""A training is sums over blocks, then a solve; interrupted anywhere, it has the result of an undisturbed one."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from trained import frozen_llama, held_out, learned, setup_of

from eexit.errors import UsageError
from eexit.plan.artefacts import CARD, STATE, WEIGHTS, ArtefactCard
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.training import loop
from eexit.training.loop import Training, measured
from eexit.training.plan import TrainingPlan
from eexit.training.texts import TrainingText, n_tokens
from eexit.training.trainer_inputs import WAYS
from eexit.training.trainers import TRAINERS


def training(folder: Path, what: str) -> Training:
    folder.mkdir(exist_ok=True)
    setup = setup_of(frozen_llama(), what, rules=("confidence/0.3", "entropy/1.5") if what == "gate" else ())
    config = SweepConfig(prompts=(Prompt(id="0", prompt="?"),))
    plan = TrainingPlan(config, {}, setup.options, setup.texts, held_out(frozen_llama()), {}, folder)
    return Training(TRAINERS[what](setup), plan)


def finished(its: Training) -> tuple[ArtefactCard, dict[str, list[float]]]:
    card = its.finish()
    tensors = load_file(its.plan.folder / WEIGHTS)
    return card.model_copy(update={"made": "", "seconds": 0.0}), {k: part.tolist() for k, part in tensors.items()}


@pytest.mark.parametrize("what", WAYS)
def test_killed_at_any_block_it_ends_as_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Each block in a process of its own, as it were; what was not saved before it was killed is done again."""
    monkeypatch.setattr(loop, "BLOCK_TOKENS", 24)  # two texts
    whole_in, parts_in = tmp_path / "whole", tmp_path / "parts"
    whole, done, n_blocks = training(whole_in, what), False, 0
    whole.advance(seconds=60)
    while not done:
        part = training(parts_in, what)
        part.advance(seconds=0)
        part.save()
        training(parts_in, what).advance(seconds=0)
        done, n_blocks = part.status()[0], n_blocks + 1
    assert n_blocks == len(whole.blocks) > 2
    assert [path.name for path in parts_in.iterdir()] == [STATE]
    last = training(parts_in, what)
    assert last.status()[1].tokens == n_tokens(learned(frozen_llama()))
    assert finished(last) == finished(whole)
    assert {path.name for path in parts_in.iterdir()} == {CARD, WEIGHTS}


def test_a_card_is_measured_on_few_tokens_drawn_from_all_texts() -> None:
    texts = [TrainingText(str(number), (number,), (7,) * 300, held_out=True) for number in range(40)]
    some = measured(texts)
    assert n_tokens(some) == loop.MEASURED_TOKENS == 2000
    assert [len(text.token_ids) for text in some] == [300] * 6 + [200]
    assert [text.prompt_id for text in some] != [text.prompt_id for text in texts[:7]]
    assert measured(texts) == some
    assert n_tokens(measured(texts[:3])) == 900


def test_a_damaged_state_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(UsageError, match=r"is no training's checkpoint \(.*\): remove it, or choose another --out"):
        training(tmp_path, "linear")
