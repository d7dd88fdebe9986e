"""`state`: what its maps are worth is what a plain loop finds."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from references import decoder_of
from torch import Tensor
from trained import LAYERS, frozen_llama, held_out, learned, setup_of, summed

from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, STREAMS
from eexit.method.linear_map import LinearMap
from eexit.method.readouts import READOUTS, LinearReadout, Readout
from eexit.model.cache import BLOCK_COLUMNS
from eexit.model.layers import ForwardInputs, VisitedLayer
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
def naive_disagreement(
    text: TrainingText, exit_set: tuple[int, ...], held: Mapping[str, Tensor], readout: Readout
) -> tuple[list[bool], list[int]]:
    """Which decided tokens are not full depth's, and where they leave; one token after the other, with these maps."""
    model, decoder = frozen_llama(), decoder_of(frozen_llama())
    ids, n_prompt = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]]), len(text.prompt_token_ids)
    hidden_states = model(ids, output_hidden_states=True).hidden_states
    said_T = model(ids).logits[0].argmax(-1)
    cache, seen_1C = decoder.cache(1, ids.shape[1]), torch.ones(1, ids.shape[1], dtype=torch.bool)
    wrong, exits = [], []
    for positions in (range(n_prompt), *([at] for at in range(n_prompt, ids.shape[1]))):
        at, exit_layer = positions[-1], 6
        if at >= n_prompt:
            streams = {layer: hidden_states[layer + 1][0, [at]] for layer in exit_set}
            reads = {at: model.lm_head(readout.before_head(decoder, s_1W, at)[0]) for at, s_1W in streams.items()}
            exit_layer = next((layer for layer, logits in reads.items() if logits.argmax() == said_T[at]), 6)

        after: list[Tensor] = []

        def visit(
            layer: VisitedLayer, hidden_1TW: Tensor, exit_layer: int = exit_layer, after: list[Tensor] = after
        ) -> Tensor:
            name = f"state.{exit_layer}.{layer.index}"
            maps = {part: naive_map(held, f"{name}{part}") for part in ("", ".key", ".value")}
            if layer.index <= exit_layer:
                after.append(layer.run(hidden_1TW))
                return after[-1]
            if layer.index == exit_layer + 1 or not held:
                layer.write_keys(hidden_1TW)
            elif f"{name}.bias" in held:
                layer.write_keys(hidden_1TW + hidden_1TW @ maps[""][0] + maps[""][1])
            else:
                (key, key_bias), (value, value_bias) = maps[".key"], maps[".value"]
                layer.write_keys(hidden_1TW, [lambda _, x: x @ key + key_bias, lambda _, x: x @ value + value_bias])
            return hidden_1TW

        part = ForwardInputs(ids[:, list(positions)], torch.tensor([list(positions)]), seen_1C[:, : at + 1])
        decoder.run(visit, part, cache)
        if at >= n_prompt:
            exits.append(exit_layer)
            stream_1W = after[-1][0]
            is_final, read = exit_layer == 6, readout.before_head
            ready_1H = model.model.norm(stream_1W) if is_final else read(decoder, stream_1W, exit_layer)
            wrong.append(bool(model.lm_head(ready_1H[0]).argmax() != said_T[positions[0]]))
    return wrong, exits


def naive_map(held: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return held.get(f"{name}.weight", torch.empty(0)), held.get(f"{name}.bias", torch.empty(0))


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
    some_wrong = 0
    for exit_set in disagreement.exit_sets(LAYERS):
        for state, held in (("frozen_residual", {}), ("mapped_residual", maps)):
            row = rows.pop((exit_set[0], state))
            found = [naive_disagreement(text, exit_set, held, READ[form]) for text in texts]
            wrong, exits = np.concatenate([each for each, _ in found]), np.concatenate([each for _, each in found])
            assert row.n == len(wrong)
            assert row.agreement == pytest.approx(1 - wrong.mean())
            assert row.taken == pytest.approx((exits < 6).mean())
            some_wrong += wrong.sum()
    assert not rows
    assert some_wrong > 0, "else every state would do"


def test_an_exit_without_a_skipped_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="at layer 4 or before"):
        KVMapTrainer(setup_of(frozen_llama(), "kv-maps", layers=(5,)))


def test_texts_go_together_within_a_bound_on_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreement, "ROOM_COLUMNS", 4 * BLOCK_COLUMNS)
    sizes = [(3, 9), (300, 9), (3, 1), (2000, 4), (3, 30), (3, 9), (300, 9)]  # prompt, answer; one decides nothing
    texts = [TrainingText(str(n), (n,) * prompt, (1,) * answer) for n, (prompt, answer) in enumerate(sizes)]
    together = [[text.prompt_id for text in block] for block in disagreement.side_by_side(texts)]
    assert together == [["0", "4", "5"], ["1", "6"], ["3"]]
