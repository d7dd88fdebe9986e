"""`student`: without exits it stays the base model, with exits it comes closer to it, and it goes on where it was."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import LAYERS, frozen_llama, held_out, learned, setup_of

from eexit.method.probes import Probe
from eexit.method.readouts import READOUTS
from eexit.model.adapters import merged, own_weights
from eexit.model.decoder import Decoder
from eexit.training.setup import KL_FACTORS, Setup
from eexit.training.student.layer_loss import StepSeen
from eexit.training.student.student import StudentTrainer
from eexit.training.texts import Text, n_tokens

FINAL = 6


def student(**options: object) -> StudentTrainer:
    """Of a copy of the model: an adapter is put into the model itself. Each block is one step, unless it is said."""
    model = copy.deepcopy(frozen_llama())
    given = {"loss": "exits", "tokens_per_step": 10_000, "most_tokens": 960, **options}
    made = setup_of(frozen_llama(), "student", None, **given)
    return StudentTrainer(Setup(model, Decoder(model), made.options, READOUTS["lens"], made.texts))


@cache
def trained() -> StudentTrainer:
    trainer = student(learning_rate=2e-2)
    for _ in range(trainer.passes):
        trainer.train(trainer.texts)
    trainer.finish()
    return trainer


def adapters(trainer: StudentTrainer) -> Sequence[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.parameters.values()]


def test_without_exits_the_student_stays_the_base_model() -> None:
    trainer = student(kl_factor=1e30)
    before = adapters(trainer)
    assert [trainer.train(trainer.texts) for _ in range(2)] == [0, 0]
    assert all(torch.equal(was, its) for was, its in zip(before, adapters(trainer), strict=True))


def test_exits_come_closer_to_full_depth_and_the_table_says_so() -> None:
    trainer, texts = trained(), learned(frozen_llama())
    rows = trainer.tables(texts)["exits"]
    n_decided = sum(len(text.token_ids) - 1 for text in texts)
    whole = {(row["kl_factor"], row["when"]): row for row in rows if row["layer"] is None}
    assert list(whole) == [(factor, when) for factor in KL_FACTORS for when in ("before", "after")]
    for (factor, when), row in whole.items():
        parts = [its for its in rows if (its["kl_factor"], its["when"]) == (factor, when) and its["layer"] is not None]
        assert {its["layer"] for its in parts} <= {*LAYERS, FINAL}
        assert sum(its["n"] for its in parts) == row["n"] == n_decided
        total = sum(its["n"] * its["mean_kl"] for its in parts)
        assert total == pytest.approx(row["n"] * row["mean_kl"], rel=1e-4)
    assert whole[1.0, "after"]["mean_kl"] < 0.9 * whole[1.0, "before"]["mean_kl"]
    assert trainer.held_out_loss(texts) == pytest.approx(whole[1.0, "after"]["mean_kl"], rel=1e-4)
    at_full_depth = [row for row in rows if row["layer"] == FINAL and row["when"] == "before"]
    assert max(row["mean_kl"] for row in at_full_depth) > 0  # these, too, see what earlier exits left


@pytest.mark.parametrize("loss", ["exits", "layers"])
def test_an_interrupted_student_goes_on_as_if_it_had_not_been(loss: str) -> None:
    blocks = [learned(frozen_llama())[:4], learned(frozen_llama())[4:], learned(frozen_llama())[:5]]
    whole, first, second = student(loss=loss), student(loss=loss), student(loss=loss, seed=0)
    for block in blocks:
        whole.train(block)
    first.follow(held_out(frozen_llama()))
    first.train(blocks[0])
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    assert (second.steps, second.seen) == (first.steps, n_tokens(blocks[0]))
    for block in blocks[1:]:
        second.train(block)
    for mine, its in zip(adapters(second), adapters(whole), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)
    assert second.curve.points == first.curve.points != []
    assert second.loss.weight == whole.loss.weight


@pytest.mark.parametrize(("in_state", "at_exits"), [(0.0, 0), (0.5, 4), (0.25, 2)])
def test_every_layer_has_its_turn_whatever_steps_are_at_exits(
    in_state: float, at_exits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, texts = student(loss="layers", in_state=in_state, tokens_per_step=32), learned(frozen_llama())
    trainer.seen = trainer.most_tokens // 2  # all layers have joined
    turns: list[int] = []

    def at_layer(texts: Sequence[Text], layer: int, n_step: int) -> StepSeen:
        turns.append(layer)
        return StepSeen(torch.zeros(n_step), torch.zeros(n_step), torch.ones(n_step, dtype=torch.bool))

    monkeypatch.setattr(trainer.loss, "learn", at_layer)
    monkeypatch.setattr(trainer, "_learn_at_exits", lambda texts, n_step: 0.0)
    for _ in range(2):
        trainer.train(texts)  # in four steps
    assert len(turns) == 8 - at_exits
    assert set(turns) == set(LAYERS)
    assert abs(turns.count(LAYERS[0]) - turns.count(LAYERS[1])) <= 1


def test_layers_come_to_say_what_the_final_one_says_which_goes_on_saying_it() -> None:
    texts = learned(frozen_llama())
    trainer = student(loss="layers", learning_rate=9e-3, most_tokens=2200, until=50.0)  # whose rate has fallen by then
    trainer.follow(texts)
    while trainer.seen < 3000 and not trainer.gains_too_little:
        trainer.train(texts)
        trainer.follow(texts)
    assert trainer.seen < 3000, "half of the tokens can't have gained 50 points"
    before, *_, after = trainer.curve.points
    assert before.agreement_X[-1] == 1
    assert before.mean_kl_X[-1] == pytest.approx(0, abs=1e-6)
    assert after.agreement_X[-1] > 0.9
    assert all(now < 0.7 * then for then, now in zip(before.mean_kl_X[:-1], after.mean_kl_X[:-1], strict=True))
    rows = trainer.tables(texts)["learning"]
    assert [row["tokens"] for row in rows if row["layer"] is None] == [point.tokens for point in trainer.curve.points]
    assert before.multiplying == 0 < after.multiplying < 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's own loading
def test_a_whole_student_learns_in_all_weights_of_its_layers(tmp_path: Path) -> None:
    trainer, texts = student(loss="layers", full=True, in_state=0.5, learning_rate=1e-3), learned(frozen_llama())
    before, weights = adapters(trainer), dict(frozen_llama().named_parameters())
    n_of_layers = sum(each.numel() for name, each in weights.items() if ".layers." in name)
    assert sum(each.numel() for each in before) == n_of_layers
    trainer.train(texts)
    assert not any(torch.equal(was, its) for was, its in zip(before, adapters(trainer), strict=True))
    trainer.save_further(tmp_path)
    ids = torch.tensor([texts[0].prompt_token_ids])
    with torch.no_grad():
        own = trainer.pair.model(input_ids=ids).logits
        with trainer.pair.model.disable_adapter():
            assert torch.equal(trainer.pair.model(input_ids=ids).logits, frozen_llama()(input_ids=ids).logits)
        read_back = merged(frozen_llama(), str(tmp_path))
        torch.testing.assert_close(read_back(input_ids=ids).logits, own)
    assert own_weights(frozen_llama(), str(tmp_path)) == n_of_layers
    names = {name for name, each in read_back.named_parameters() if each.data_ptr() == weights[name].data_ptr()}
    assert names == {name for name in weights if ".layers." not in name}


def test_the_learning_rate_ends_with_the_tokens_or_with_the_minutes() -> None:
    trainer = student(most_tokens=1000, most_minutes=1.0)
    rates = []
    for trainer.seen, trainer.seconds in ((25, 0.0), (50, 0.0), (525, 0.0), (525, 45.0), (525, 60.0), (1000, 3.0)):
        rates.append(trainer.rate() / 1e-3)
    assert rates == pytest.approx([0.5, 1, 0.5, 0.25 / 0.95, 0, 0])


def test_its_artefact_has_an_adapter_and_probes_of_its_own_streams(tmp_path: Path) -> None:
    trainer = trained()
    trainer.save_further(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 7 * 4 * 2
    probe = Probe.of(trainer.weights(), LAYERS)
    predicted_N = probe.predicted_kl(
        torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), LAYERS[0], torch.ones(5)
    )
    assert predicted_N.isfinite().all()
    tables = trainer.tables(learned(frozen_llama()))
    assert [row["layer"] for row in tables["probes"]] == list(LAYERS)
    assert tables["probes"][0]["rank_correlation"] > 0.3, tables["probes"]
    n_decided = sum(len(text.token_ids) - 1 for text in learned(frozen_llama()))
    reaching = {
        layer: sum(row["n"] for row in tables["calibration"] if (row["layer"], row["kl_factor"]) == (layer, 1.0))
        for layer in LAYERS
    }
    assert n_decided == reaching[LAYERS[0]] > reaching[LAYERS[1]]  # what has exited before reaches no further layer


def test_the_probe_of_a_layer_that_no_token_reaches_never_exits(tmp_path: Path) -> None:
    trainer = student(kl_factor=1e-6)
    trainer.finish()
    save_file(trainer.weights(), tmp_path / "weights.safetensors")  # which refuses tensors that share memory
    probe = Probe.of(load_file(tmp_path / "weights.safetensors"), LAYERS)
    stream_NW = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert (probe.predicted_kl(stream_NW, LAYERS[1], torch.ones(len(stream_NW))) > 1e12).all()
    assert trainer.tables(held_out(frozen_llama()))["probes"][1]["rank_correlation"] == 0
