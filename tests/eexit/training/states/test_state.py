"""`state`: what its maps are worth is what a plain loop finds, and a training that was stopped goes on to the same."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from references import decoder_of, shared_model
from torch import Tensor
from trained import LAYERS, frozen_llama, held_out, learned, setup_of

from eexit.errors import UsageError
from eexit.method.readouts import READOUTS, Linear, Readout
from eexit.method.state_maps import KEYS, STREAMS
from eexit.model.cache import KVCache
from eexit.training.states.disagreement import Disagreement, exit_sets, kept_form, less
from eexit.training.states.state import StateTrainer, forms_of
from eexit.training.texts import Text
from eexit.training.trainer import Tables

RANK = 8
READ = {  # what layers are read through, in what is trained of each form
    STREAMS: READOUTS["lens"],
    KEYS: Linear({layer: (torch.eye(32) + 0.5 * torch.eye(32).roll(layer, 0), torch.zeros(32)) for layer in LAYERS}),
}


def trained(form: str | None, rounds: int = 2, rank: int | None = RANK) -> StateTrainer:
    texts = learned(frozen_llama())
    setup = setup_of(frozen_llama(), "state", form=form, rounds=rounds, rank=rank)
    trainer = StateTrainer(replace(setup, readout=READ[form or STREAMS]))
    for _ in range(rounds):
        for block in (texts[:5], texts[5:]):
            trainer.train(block)
    return trainer


@pytest.fixture(scope="module")
def of_form() -> dict[str, tuple[StateTrainer, Tables]]:
    trainers = {form: trained(form) for form in (STREAMS, KEYS)}
    return {form: (trainer, trainer.tables(held_out(frozen_llama()))) for form, trainer in trainers.items()}


@torch.inference_mode()
def naive_disagreement(
    text: Text, exit_set: tuple[int, ...], held: Mapping[str, Tensor], readout: Readout
) -> tuple[list[bool], list[int]]:
    """Which decided tokens are not full depth's, and where they leave; one token after the other, with these maps."""
    model, decoder = frozen_llama(), decoder_of(frozen_llama())
    ids, n_prompt = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]]), len(text.prompt_token_ids)
    hidden_states = model(ids, output_hidden_states=True).hidden_states
    said_T = model(ids).logits[0].argmax(-1)
    cache = KVCache(1, ids.shape[1])
    wrong, exits = [], []
    for positions in (range(n_prompt), *([at] for at in range(n_prompt, ids.shape[1]))):
        view = decoder.view(cache, torch.tensor([list(positions)]), positions[-1] + 1)
        with decoder.attending():
            hidden_1TW, layer_pass = decoder.begin(ids[:, list(positions)], view)
            exit_layer = 6
            if len(positions) == 1:
                at = positions[0]
                ready = {
                    layer: readout.before_head(decoder, hidden_states[layer + 1][0, [at]], layer) for layer in exit_set
                }
                reads = {layer: model.lm_head(ready_1H[0]) for layer, ready_1H in ready.items()}
                exit_layer = next((layer for layer, logits in reads.items() if logits.argmax() == said_T[at]), 6)
            for layer in range(exit_layer + 1):
                hidden_1TW = layer_pass.block(layer, hidden_1TW)
            for layer in range(exit_layer + 1, 7):
                name = f"state.{exit_layer}.{layer}"
                maps = {part: naive_map(held, f"{name}{part}") for part in ("", ".key", ".value")}
                if layer == exit_layer + 1 or not held:
                    layer_pass.write_keys(layer, hidden_1TW)
                elif f"{name}.bias" in held:
                    layer_pass.write_keys(layer, hidden_1TW + hidden_1TW @ maps[""][0] + maps[""][1])
                else:
                    (key, key_bias), (value, value_bias) = maps[".key"], maps[".value"]
                    made = (lambda x, w=key, b=key_bias: x @ w + b), (lambda x, w=value, b=value_bias: x @ w + b)
                    layer_pass.write_keys(layer, hidden_1TW, made)
        if len(positions) == 1:
            exits.append(exit_layer)
            stream_1W = hidden_1TW[0]
            ready_1H = (
                model.model.norm(stream_1W) if exit_layer == 6 else readout.before_head(decoder, stream_1W, exit_layer)
            )
            wrong.append(bool(model.lm_head(ready_1H[0]).argmax() != said_T[positions[0]]))
    return wrong, exits


def naive_map(held: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    if f"{name}.down" in held:
        return held[f"{name}.down"] @ held[f"{name}.up"], held[f"{name}.bias"]
    return held.get(f"{name}.weight", torch.empty(0)), held.get(f"{name}.bias", torch.empty(0))


@pytest.mark.parametrize("form", [STREAMS, KEYS])
def test_the_cards_disagreement_is_what_a_plain_loop_finds(
    of_form: dict[str, tuple[StateTrainer, Tables]], form: str
) -> None:
    trainer, tables = of_form[form]
    last = {"form": form, "round": 2, "rank": RANK}
    states: list[tuple[dict[str, Any], Mapping[str, Tensor]]] = [
        ({"form": None, "round": None, "rank": None}, {}),
        (last, trainer.weights()),
    ]
    some_wrong = 0
    for exit_set in exit_sets(LAYERS):
        for named, held in states:
            [row] = [
                row for row in tables["state_exits"] if row["exits"] == list(exit_set) and row.items() >= named.items()
            ]
            found = [naive_disagreement(text, exit_set, held, READ[form]) for text in held_out(frozen_llama())]
            wrong, exits = np.concatenate([each for each, _ in found]), np.concatenate([each for _, each in found])
            assert row["mode"] == ("mapped_residual" if held else "frozen_residual")
            assert (row["n"], row["n_prompts"], row["n_final"]) == (len(wrong), len(found), (exits == 6).sum())
            assert row["disagreement"] == pytest.approx(wrong.mean())
            assert row["disagreement_low"] <= wrong.mean() <= row["disagreement_high"]
            assert row["final_disagreement"] == pytest.approx(wrong[exits == 6].mean())
            assert row["skipped"] == pytest.approx((6 - exits).mean() / 7)
            some_wrong += wrong.sum()
    assert some_wrong > 0, "else every state would do"


def test_the_card_says_what_maps_explain_and_what_a_token_costs(
    of_form: dict[str, tuple[StateTrainer, Tables]],
) -> None:
    for form, (trainer, _) in of_form.items():
        tables = trainer.tables(learned(frozen_llama()))
        made = [(row["round"], row["rank"]) for row in tables["state_costs"] if row["layer"] == 1]
        assert made == [(1, None), (2, None), (2, RANK)]
        first = [row for row in tables["state"] if row["round"] == 1]
        assert [(row["layer"], row["deeper"]) for row in first] == [(1, 3), (1, 4), (1, 5), (1, 6), (3, 5), (3, 6)]
        assert all(1 > row["explained"] > row["frozen"] for row in first), "on what they were fitted to"
        width, keys = 32, 2 * 32 * 16  # and two heads of eight each for keys and for values
        for row in tables["state_costs"]:
            n_mapped = 5 - row["layer"]
            whole = {STREAMS: width * width, KEYS: 0}[form]
            low = {STREAMS: 2 * width * RANK, KEYS: 2 * RANK * (width + 16) - keys}[form]
            assert row["frozen_residual"] == keys * row["skipped"] == keys * (n_mapped + 1)
            assert row["mapped_residual"] == row["frozen_residual"] + n_mapped * (whole if row["rank"] is None else low)
            assert row["full_depth"] > 5 * row["frozen_residual"]
            n_bytes = sum(
                tensor.nbytes for name, tensor in trainer.weights().items() if f"state.{row['layer']}." in name
            )
            assert row["rank"] is None or row["bytes"] == n_bytes


def of_texts(wrong: list[int]) -> Disagreement:
    n_P = np.full(len(wrong), 20)
    return Disagreement(n_P, np.array(wrong), n_P, np.array(wrong), n_P)


def test_streams_are_kept_only_where_they_are_certainly_better() -> None:
    few, many, alike = of_texts([0, 1] * 30), of_texts([3, 4] * 30), of_texts([1, 0] * 30)
    assert kept_form(few, many) == STREAMS
    assert kept_form(many, few) == kept_form(few, alike) == kept_form(few, few) == KEYS
    mean, (low, high) = less(few, many)
    assert mean == pytest.approx(3 / 20)
    assert low < mean < high


def test_what_a_model_has_no_maps_for_is_refused() -> None:
    gpt2 = shared_model("gpt2")
    with pytest.raises(UsageError, match="give --form streams"):
        forms_of(setup_of(gpt2, "state", learned(frozen_llama()), form=KEYS))
    assert list(forms_of(setup_of(gpt2, "state", learned(frozen_llama())))) == [STREAMS]
    with pytest.raises(UsageError, match="at layer 4 or before"):
        forms_of(setup_of(frozen_llama(), "state", layers=(5,)))
