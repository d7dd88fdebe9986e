"""`cut`: its card is what plain loops over transformers' own modules find, and a training that was stopped goes on."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from references import decoder_of
from torch import Tensor, nn
from trained import frozen_llama, held_out, learned, setup_of

from eexit.model.adapters import CUT, Cut
from eexit.training.student.cut import CutTrainer
from eexit.training.texts import Text
from eexit.training.trainer import Tables

SIZES, N_LAYERS, WIDTH = (1, 3), 7, 32


def trainer_of(*blocks: list[Text]) -> CutTrainer:
    trainer = CutTrainer(setup_of(frozen_llama(), "cut", n_layers=SIZES))
    for block in blocks:
        trainer.train(block)
    return trainer


@cache
def trained() -> tuple[CutTrainer, Tables]:
    texts = learned(frozen_llama())
    trainer = trainer_of(texts[:5], texts[5:])
    trainer.finish()
    return trainer, trainer.tables(held_out(frozen_llama()))


def tensors(size: int) -> Mapping[str, Tensor]:
    trainer, tables = trained()
    return trainer.parts(tables)[str(size)].tensors


@cache
def streams_of(text: Text) -> Tensor:
    """What the model says of itself: the stream that enters each layer, (L, T, W), at all positions of a text."""
    ids = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]])
    with torch.inference_mode():
        entering = frozen_llama()(ids, output_hidden_states=True).hidden_states
    return torch.cat(entering[:-1])  # the last one has been through the norm


def entering_and_leaving(text: Text, first: int, size: int) -> tuple[Tensor, Tensor]:
    streams_LTW = streams_of(text)
    return streams_LTW[first], streams_LTW[first + size]


def test_distances_are_angles_where_answers_are_read_and_the_least_one_is_cut_out() -> None:
    trainer, tables = trained()
    texts = learned(frozen_llama())[:5]  # of the first block
    expected = {}
    for size in SIZES:
        for first in range(1, N_LAYERS - size):
            angles = []
            for text in texts:
                entering_TW, leaving_TW = entering_and_leaving(text, first, size)
                for at in range(len(text.prompt_token_ids) - 1, len(entering_TW)):
                    cosine = torch.cosine_similarity(entering_TW[at], leaving_TW[at], dim=0)
                    angles.append(float(torch.arccos(cosine)) / torch.pi)
            expected[size, first] = sum(angles) / len(angles)
    found = {(row["n_layers"], row["first"]): row["distance"] for row in tables["distances"]}
    assert found == pytest.approx(expected, rel=1e-4)
    for row in tables["cuts"]:
        of_size = {first: angle for (size, first), angle in expected.items() if size == row["n_layers"]}
        assert row["first"] == min(of_size, key=of_size.__getitem__)
        assert row["last"] == row["first"] + row["n_layers"] - 1
        assert trainer.blocks[row["n_layers"]] == range(row["first"], row["last"] + 1)


@pytest.mark.parametrize("size", SIZES)
def test_the_map_is_the_ridge_regression_of_what_leaves_the_block(size: int) -> None:
    _, tables = trained()
    [row] = [row for row in tables["cuts"] if row["n_layers"] == size]
    pairs = [entering_and_leaving(text, row["first"], size) for text in learned(frozen_llama())]
    entering_NW, leaving_NW = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    std_W = entering_NW.std(0, correction=0)
    standard_NW = (entering_NW - entering_NW.mean(0)) / std_W
    added_NW = leaving_NW - entering_NW
    gram_WW = standard_NW.T @ standard_NW / len(standard_NW) + row["penalty"] * torch.eye(WIDTH)
    weight_WW = torch.linalg.solve(gram_WW, standard_NW.T @ added_NW / len(standard_NW)) / std_W[:, None]
    bias_W = added_NW.mean(0) - entering_NW.mean(0) @ weight_WW
    torch.testing.assert_close(tensors(size)[f"{CUT}weight"].double(), weight_WW, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tensors(size)[f"{CUT}bias"].double(), bias_W, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def naive_said(text: Text, cut: Cut | None, layers: range) -> Tensor:
    """The likeliest tokens behind the decided ones, by the model's own forward; without a cut, the block hands on."""
    ids = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]])

    def instead(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], __: object) -> Tensor:
            adds = cut is not None and layer == layers.start
            return args[0] + args[0] @ cut.weight_WW + cut.bias_W if adds and cut else args[0]

        return hook

    own = frozen_llama().model.layers
    handles = [own[layer].register_forward_hook(instead(layer)) for layer in layers]
    logits_TV: Tensor = frozen_llama()(ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits_TV[len(text.prompt_token_ids) :].argmax(-1)


@pytest.mark.parametrize("size", SIZES)
def test_the_card_says_what_plain_loops_find(size: int) -> None:
    _, tables = trained()
    [row] = [row for row in tables["cuts"] if row["n_layers"] == size]
    cut, texts = Cut.of(tensors(size)), held_out(frozen_llama())
    whole, mapped, without = (
        torch.cat([naive_said(text, *given) for text in texts])
        for given in ((None, range(0)), (cut, cut.layers), (None, cut.layers))
    )
    assert (row["n"], row["n_prompts"]) == (len(whole), len(texts)) == (11 * len(texts), 2)
    assert row["agreement"] == pytest.approx(float((mapped == whole).float().mean()))
    assert row["agreement_without"] == pytest.approx(float((without == whole).float().mean()))
    assert row["agreement_low"] <= row["agreement"] <= row["agreement_high"]
    pairs = [entering_and_leaving(text, row["first"], size) for text in texts]
    decided = [
        (each[0][len(text.prompt_token_ids) :], each[1][len(text.prompt_token_ids) :])
        for text, each in zip(texts, pairs, strict=True)
    ]
    entering_NW, leaving_NW = (torch.cat(parts).double() for parts in zip(*decided, strict=True))
    off = leaving_NW - entering_NW - entering_NW @ cut.weight_WW.double() - cut.bias_W.double()
    variance = (leaving_NW - leaving_NW.mean(0)).square().sum()
    assert row["explained"] == pytest.approx(float(1 - off.square().sum() / variance), rel=1e-3)
    assert row["explained_without"] == pytest.approx(
        float(1 - (leaving_NW - entering_NW).square().sum() / variance), rel=1e-3
    )
    layer = sum(
        parameter.numel() for name, parameter in frozen_llama().model.layers[0].named_parameters() if "norm" not in name
    )
    assert row["full_depth"] == N_LAYERS * layer + frozen_llama().lm_head.weight.numel()
    assert row["cut"] == row["full_depth"] - size * layer + WIDTH**2
    assert row["bytes"] == 4 * (WIDTH**2 + WIDTH)


def test_a_map_is_better_than_nothing_on_what_it_learned_from() -> None:
    trainer, _ = trained()
    for row in trainer.tables(learned(frozen_llama()))["cuts"]:
        assert row["explained"] > row["explained_without"]


def test_an_interrupted_training_goes_on_to_the_same() -> None:
    texts = learned(frozen_llama())
    first = trainer_of(texts[:5])
    second = trainer_of()
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    second.train(texts[5:])
    second.finish()
    whole, tables = trained()
    assert second.blocks == whole.blocks
    for name, part in second.parts(tables).items():
        for key, tensor in part.tensors.items():
            assert torch.equal(tensor, tensors(int(name))[key])
    assert decoder_of(frozen_llama()).cut == range(0), "the model itself stays as it is"
