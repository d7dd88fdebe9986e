"""`state`: what its maps are worth is what a plain loop finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.generation import generate_one
from references import decoder_of
from trained import LAYERS, frozen_llama, held_out, learned, setup_of, summed

from eexit.decode.requests import DecodingConfig, Request
from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, STREAMS, KVMaps
from eexit.method.linear_map import LinearMap
from eexit.method.readouts import READOUTS, LinearReadout
from eexit.model.cache import BLOCK_COLUMNS
from eexit.plan.configuration import EarlyExit
from eexit.training.kv_maps import disagreement
from eexit.training.kv_maps.kv_map_trainer import KVMapTrainer
from eexit.training.kv_maps.map_forms import KVForm
from eexit.training.texts import TrainingText

READ = {  # what layers are read through, in what is trained of each form
    STREAMS: READOUTS["lens"],
    KEYS: LinearReadout(
        {layer: LinearMap(torch.eye(32) + 0.5 * torch.eye(32).roll(layer, 0), torch.zeros(32)) for layer in LAYERS}
    ),
}


@torch.inference_mode()
def naive_disagreement(text: TrainingText, configuration: EarlyExit, decoding: DecodingConfig) -> np.ndarray:
    """Return for each decided token whether it is not full depth's, and whether it exits early."""
    model, prompt, forced = frozen_llama(), text.prompt_token_ids, text.token_ids
    top_token_T = model(torch.tensor([[*prompt, *forced[:-1]]])).logits[0, len(prompt) :].argmax(-1)
    decoding, request = replace(decoding, max_new_tokens=len(forced)), Request(prompt, configuration)
    trace = generate_one(model, decoder_of(model), request, decoding, forced=forced)
    disagrees_T = trace.exit_top_token_ids_TK[1:, 0] != top_token_T.numpy()
    return np.stack([disagrees_T, trace.exit_layer_T[1:] < 6], 1)


@pytest.mark.parametrize("form", [STREAMS, KEYS])
def test_the_cards_agreement_is_what_a_plain_loop_finds(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(KVForm, "fits", lambda *_: form == KEYS)
    monkeypatch.setattr(disagreement, "ROOM_COLUMNS", 2 * BLOCK_COLUMNS)  # of which each text takes half
    texts = held_out(frozen_llama())
    texts.append(replace(texts[0], prompt_token_ids=texts[0].prompt_token_ids[1:], token_ids=texts[0].token_ids[:7]))
    trainer = KVMapTrainer(replace(setup_of(frozen_llama(), "kv-maps"), readout=READ[form]))
    maps = trainer.solve(summed(trainer, learned(frozen_llama())))
    assert any(".key." in name for name in maps) == (form == KEYS)
    rows = {(row.layer, row.series): row for row in trainer.table(texts)}
    kv_maps = KVMaps.from_tensors(maps, LAYERS, n_layers=7)
    decoding = DecodingConfig(LAYERS, 1, frozenset(), readout=READ[form], kv_maps=kv_maps, record_top_k=1)
    some_wrong = 0
    for exit_set in disagreement.exit_sets(LAYERS):
        for mode in ("frozen_residual", "mapped_residual"):
            row, configuration = rows.pop((exit_set[0], mode)), EarlyExit(mode, "agree", None, exit_set)
            found = np.concatenate([naive_disagreement(text, configuration, decoding) for text in texts])
            (wrong, exited), some_wrong = found.mean(0), some_wrong + found[:, 0].sum()
            assert row.n == len(found)
            assert (row.agreement, row.taken) == pytest.approx((1 - wrong, exited))
    assert not rows
    assert some_wrong > 0, "else every mode would do"
    with pytest.raises(UsageError, match="at layer 4 or before"):
        KVMapTrainer(setup_of(frozen_llama(), "kv-maps", layers=(5,)))


def test_texts_go_together_within_a_bound_on_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreement, "ROOM_COLUMNS", 4 * BLOCK_COLUMNS)
    sizes = [(3, 9), (300, 9), (3, 1), (2000, 4), (3, 30), (3, 9), (300, 9)]  # prompt, answer; one decides nothing
    texts = [TrainingText(str(n), (n,) * prompt, (1,) * answer) for n, (prompt, answer) in enumerate(sizes)]
    together = [[text.prompt_id for text in block] for block in disagreement.side_by_side(texts)]
    assert together == [["0", "4", "5"], ["1", "6"], ["3"]]
