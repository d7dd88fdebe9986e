"""Both forms of KV maps find what is known: a linear dependence, and layers between that change nothing."""

import copy

import pytest
import torch
from references import decoder_of, shared_model
from torch import Tensor, nn

from eexit.method.linear_map import LinearMap
from eexit.model.layers import Decoder
from eexit.training.kv_maps.map_forms import HiddenForm, KVForm, MapForm, Pair, compare_norms, deeper, entering
from eexit.training.ridge import Moments, SplitMoments, best_fit

EXITS, N = (1, 3), 400


def with_norms_of_their_own(architecture: str) -> Decoder:
    """A model whose norms have other gains, and biases if they have any, in each layer."""
    model = copy.deepcopy(shared_model(architecture))
    generator = torch.Generator().manual_seed(0)
    for name, part in model.named_parameters():
        if "norm" in name.lower():
            with torch.no_grad():
                part.add_(0.3 * torch.randn(part.shape, generator=generator))
    return Decoder(model)


def streams_at(decoder: Decoder) -> dict[int, Tensor]:
    """Streams after all layers but the last, each an affine map of the one before."""
    generator = torch.Generator().manual_seed(1)
    after = {0: torch.randn(N, decoder.width, generator=generator)}
    for layer in range(1, decoder.n_layers - 1):
        change_WW = 0.2 * torch.randn(decoder.width, decoder.width, generator=generator)
        after[layer] = after[layer - 1] @ (torch.eye(decoder.width) + change_WW) + layer
    return after


def fitted(form: MapForm, after: dict[int, Tensor], targets: dict[int, Tensor]) -> dict[Pair, tuple[LinearMap, ...]]:
    sums = SplitMoments()
    for chooses, rows in ((False, slice(0, 300)), (True, slice(300, N))):
        for exit_layer in EXITS:
            of_rows = {layer: target_NH[rows] for layer, target_NH in targets.items()}
            for name, input_ND, target_NH in form.pairs(exit_layer, after[exit_layer][rows], of_rows):
                sums.add(name, chooses, Moments.from_tokens(input_ND, target_NH))
    maps = {}
    for pair, regression in form.regressions.items():
        learn, choose = (part.targets(regression.targets) for part in sums.moments_of(regression.sums))
        maps[pair] = form.maps(pair, best_fit(learn, choose, [regression.prior_JH[1:]]))
    return maps


def test_streams_that_depend_linearly_are_found() -> None:
    decoder = decoder_of(shared_model("llama"))
    form, after = HiddenForm(decoder, EXITS), streams_at(decoder)
    maps = fitted(form, after, form.targets(after))
    assert maps.keys() == {(1, 3), (1, 4), (1, 5), (1, 6), (3, 5), (3, 6)}
    for (exit_layer, layer), [change] in maps.items():
        mapped_NW = after[exit_layer] + change(after[exit_layer])
        torch.testing.assert_close(mapped_NW, after[layer - 1], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("architecture", ["llama", "stablelm", "qwen2", "gemma2"])
def test_keys_and_values_that_depend_linearly_are_found_in_the_layers_own_norm(architecture: str) -> None:
    decoder = with_norms_of_their_own(architecture)
    form, after = KVForm(decoder, EXITS), streams_at(decoder)
    generator = torch.Generator().manual_seed(2)
    normed_ND, targets = entering(decoder, 3, after[1]), {}
    for layer in deeper(1, decoder.n_layers):
        shape = normed_ND.shape[1], form.regressions[1, layer].prior_JH.shape[1]
        targets[layer] = normed_ND @ torch.randn(shape, generator=generator)
    maps = fitted(form, after, targets)
    for layer in targets:
        made = [each(entering(decoder, layer, after[1])) for each in maps[1, layer]]
        torch.testing.assert_close(torch.cat(made, 1), targets[layer], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("architecture", ["llama", "stablelm", "qwen2"])
def test_where_the_stream_does_not_change_the_layers_own_keys_and_values_come_out(architecture: str) -> None:
    decoder = with_norms_of_their_own(architecture)
    form, same_NW = KVForm(decoder, EXITS), streams_at(decoder)[0]
    after = dict.fromkeys(range(decoder.n_layers - 1), same_NW)
    for (_, layer), maps in fitted(form, after, form.targets(after)).items():
        for each, own in zip(maps, decoder.for_keys[layer].own_projections, strict=True):
            assert isinstance(own, nn.Linear)
            torch.testing.assert_close(each.weight, own.weight.detach().T, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(each.bias, own(torch.zeros(own.in_features)).detach(), rtol=1e-4, atol=1e-4)


def test_norms_that_differ_in_gain_and_bias_share_their_sums_and_others_do_not() -> None:
    decoder = with_norms_of_their_own("stablelm")
    assert {scaled.like for scaled in compare_norms(decoder, range(2, 7)).values()} == {2}
    other = copy.deepcopy(shared_model("stablelm"))
    other.model.layers[4].input_layernorm = nn.Tanh()
    with torch.no_grad():
        other.model.layers[5].input_layernorm.weight[0] = 0
    found = compare_norms(Decoder(other), range(2, 7))
    assert {layer: scaled.like for layer, scaled in found.items()} == {2: 2, 3: 2, 4: 4, 5: 5, 6: 2}


def test_models_whose_keys_have_no_matrix_of_their_own_take_the_hidden_states() -> None:
    fits = {name: KVForm.fits(decoder_of(shared_model(name)), EXITS) for name in ("llama", "opt", "gpt2", "mpt")}
    assert fits == {"llama": True, "opt": True, "gpt2": False, "mpt": False}
