"""`linear`: where the map is known in closed form, it is found."""

import copy

import pytest
import torch
from references import decoder_of
from trained import LAYERS, held_out, learned, setup_of, summed
from transformers import PreTrainedModel

from eexit.decode.learned_exits import linear_readout
from eexit.method.readouts import READOUTS
from eexit.model.decoder import Decoder
from eexit.training.linear import LinearTrainer
from eexit.training.ridge import PENALTIES, Ridge, Sums, best_fit
from eexit.training.setup import Setup, TrainingOptions
from eexit.training.streams import compare, decided_streams


@pytest.fixture(scope="module")
def idle_after_1(llama: PreTrainedModel) -> PreTrainedModel:
    """A model whose layers past layer 1 add nothing to the residual stream."""
    model = copy.deepcopy(llama)
    for layer in model.model.layers[2:]:
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(part.weight)
    return model


def test_where_later_layers_are_the_identity_the_readout_is_exact(
    llama: PreTrainedModel, idle_after_1: PreTrainedModel
) -> None:
    texts = learned(llama)  # any texts will do
    decoder = Decoder(idle_after_1)
    trainer = LinearTrainer(Setup(decoder, TrainingOptions("linear", (0, 1, 3)), READOUTS["lens"], texts))
    trainer.solve(summed(trainer, texts))
    [states_NXW] = decided_streams(decoder, held_out(llama), (0, 1, 3))
    kl_NE = compare(decoder, linear_readout(trainer.of_layer, decoder), (0, 1, 3), states_NXW).kl_BE
    assert kl_NE[:, 1:].max() < 1e-5
    assert kl_NE[:, 0].median() > 0.01, "before, there is something to do"


def test_ridge_is_the_closed_form_and_draws_towards_its_prior() -> None:
    generator = torch.Generator().manual_seed(1)
    input_ND = torch.randn(50, 4, generator=generator).double() * torch.tensor([1.0, 10, 100, 0.1]) + 3
    target_NH = torch.randn(50, 2, generator=generator).double()
    sums, prior_DH = Sums.of(input_ND, target_NH), torch.ones(4, 2).double()
    centred = input_ND - input_ND.mean(0)
    std_D = centred.square().mean(0).sqrt()
    for penalty in (1e-6, 0.5):
        missing = target_NH - target_NH.mean(0) - centred @ prior_DH
        system = centred.mT @ centred / 50 + penalty * torch.diag(std_D**2)
        expected = prior_DH + torch.linalg.solve(system, centred.mT @ missing / 50)
        map_JH = Ridge(sums, prior_DH).fit(penalty)
        torch.testing.assert_close(map_JH[1:], expected)
        error = (target_NH - map_JH[0] - input_ND @ map_JH[1:]).square().sum(1).mean().item()
        assert sums.error(map_JH) == pytest.approx(error)
    torch.testing.assert_close(Ridge(sums, prior_DH).fit(1e12)[1:], prior_DH)


def test_what_is_noise_for_the_texts_that_choose_is_not_learned() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randn(40, 30, generator=generator) for _ in range(4)]
    learn, choose = Sums.of(noise[0], noise[1]), Sums.of(noise[2], noise[3])
    none = torch.zeros(30, 30).double()
    assert PENALTIES[-1] > 1
    weight_DH = best_fit(learn, choose, [none])[1:]
    assert weight_DH.norm() < 0.1 * Ridge(learn + choose, none).fit(PENALTIES[0])[1:].norm()


def test_it_brings_layers_closer_to_the_final_one_and_says_so(llama: PreTrainedModel) -> None:
    trainer, texts = LinearTrainer(setup_of(llama, "linear")), held_out(llama)
    weights = trainer.solve(summed(trainer, learned(llama)))
    assert weights.keys() == {f"readout.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    rows = {(row.layer, row.series): row for row in trainer.table(texts)}
    [states_NXW] = decided_streams(decoder_of(llama), texts, LAYERS)
    readouts = {"lens": READOUTS["lens"], "linear": linear_readout(trainer.of_layer, decoder_of(llama))}
    kls = {}
    for name, readout in readouts.items():
        compared = compare(decoder_of(llama), readout, LAYERS, states_NXW)
        for rank, layer in enumerate(LAYERS):
            agrees_N = compared.likeliest_BX[:, rank] == compared.likeliest_BX[:, -1]
            assert rows[layer, name].agreement == pytest.approx(agrees_N.float().mean().item())
            assert rows[layer, name].n == sum(len(text.token_ids) - 1 for text in texts)
            kls[layer, name] = compared.kl_BE[:, rank].mean()
    assert all(kls[layer, "linear"] < kls[layer, "lens"] for layer in LAYERS)
