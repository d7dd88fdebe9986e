"""`linear`: where the map is known in closed form, it is found."""

import copy

import pytest
import torch
from references import decoder_of
from trained import LAYERS, held_out, learned, setup_of, summed
from transformers import PreTrainedModel

from eexit.method.readouts import READOUTS, LinearReadout
from eexit.model.layers import Decoder
from eexit.training.hidden_states import compare, decided_hidden_states
from eexit.training.linear import LinearTrainer
from eexit.training.trainer_inputs import TrainerInputs, TrainingOptions


def test_where_later_layers_are_idle_it_is_exact(llama: PreTrainedModel) -> None:
    model = copy.deepcopy(llama)
    for layer in model.model.layers[2:]:  # which add nothing to the hidden state
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(part.weight)
    texts, decoder = learned(llama), Decoder(model)  # any texts will do
    trainer = LinearTrainer(TrainerInputs(decoder, TrainingOptions("linear", (0, 1, 3)), READOUTS["lens"], texts))
    trainer.solve(summed(trainer, texts))
    [states_NXW] = decided_hidden_states(decoder, held_out(llama), (0, 1, 3))
    kl_NE = compare(decoder, LinearReadout(trainer.maps), (0, 1, 3), states_NXW).kl_BE
    assert kl_NE[:, 1:].max() < 1e-5
    assert kl_NE[:, 0].median() > 0.01, "before, there is something to do"


def test_it_brings_layers_closer_to_the_final_one_and_says_so(llama: PreTrainedModel) -> None:
    trainer, texts = LinearTrainer(setup_of(llama, "linear")), held_out(llama)
    weights = trainer.solve(summed(trainer, learned(llama)))
    assert weights.keys() == {f"readout.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    rows = {(row.layer, row.series): row for row in trainer.table(texts)}
    [states_NXW] = decided_hidden_states(decoder_of(llama), texts, LAYERS)
    kls = []
    for name, readout in (("linear", LinearReadout(trainer.maps)), ("lens", READOUTS["lens"])):
        compared = compare(decoder_of(llama), readout, LAYERS, states_NXW)
        kls.append(compared.kl_BE.mean(0))
        agreement_E = (compared.top_token_BX[:, :-1] == compared.top_token_BX[:, -1:]).float().mean(0)
        for layer, agreement in zip(LAYERS, agreement_E.tolist(), strict=True):
            expected = agreement, sum(len(text.token_ids) - 1 for text in texts)
            assert (rows[layer, name].agreement, rows[layer, name].n) == pytest.approx(expected)
    assert (kls[0] < kls[1]).all()
