"""The loss at layers: its KLs and gradients, whose turn it is, and the learning curve."""

import math
from collections.abc import Sequence

import pytest
import torch
from axes import EXITABLE
from references import shared_model
from torch import Tensor
from torch.nn.functional import kl_div
from trained import FINAL, pair_of, written
from transformers import PreTrainedModel

from eexit.training.student.curve import Curve, Point, measure
from eexit.training.student.layer_loss import MOST_WEIGHT, REMEMBERED, LayerLoss, Said
from eexit.training.student.lora import adapter_parameters
from eexit.training.student.passes import Pair
from eexit.training.texts import Text


def distributions(n: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    return tuple(3 * torch.randn(n, vocabulary, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("vocabulary", [20, REMEMBERED, 300])
def test_a_kl_is_that_of_the_remembered_tokens_and_all_others_as_one(vocabulary: int) -> None:
    teacher_NV, own_NV = distributions(7, vocabulary)
    compared = Said.of(teacher_NV).compare(own_NV)
    own_NV.requires_grad_()
    p_NV, q_NV = teacher_NV.softmax(-1), own_NV.softmax(-1)
    kept = p_NV.argsort(-1, descending=True)[:, :REMEMBERED]
    classes = []
    for each_NV in (p_NV, q_NV):
        kept_NK = each_NV.gather(-1, kept)
        rest_N1 = 1 - kept_NK.sum(-1, keepdim=True) if vocabulary > REMEMBERED else kept_NK[:, :0]
        classes.append(torch.cat([kept_NK, rest_N1], -1))
    kl_N = kl_div(classes[1].log(), classes[0], reduction="none").sum(-1)
    torch.testing.assert_close(compared.kl_N, kl_N.detach(), atol=1e-6, rtol=1e-6)
    (gradient_NV,) = torch.autograd.grad(kl_N.sum(), own_NV)
    torch.testing.assert_close(compared.uphill_NV, gradient_NV, atol=1e-6, rtol=1e-5)
    whole_N = kl_div(q_NV.log(), p_NV, reduction="none").sum(-1)
    assert (compared.kl_N <= whole_N + 1e-9).all()
    assert compared.agrees_N.tolist() == (p_NV.argmax(-1) == q_NV.argmax(-1)).tolist()


def adapted(architecture: str) -> tuple[Pair, list[Text]]:
    """A student that says other things than its teacher."""
    pair, generator = pair_of(architecture), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapter_parameters(pair.model).items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pair, written(shared_model(architecture))[0]


def naive_kls(pair: Pair, texts: Sequence[Text], layer: int) -> tuple[Tensor, Tensor]:
    """The KLs at a layer and at the final one, text by text, by the model's own forward."""
    kls: list[list[Tensor]] = [[], []]
    decoder = pair.reader.decoder
    for text in texts:
        ids, first = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]]), len(text.prompt_token_ids)
        with torch.no_grad(), pair.model.disable_adapter():
            said = pair.model(input_ids=ids).logits[0, first:].float().log_softmax(-1)
        made = pair.model(input_ids=ids, output_hidden_states=True)
        early = decoder.read(made.hidden_states[layer + 1][0, first:]).float().log_softmax(-1)
        for at, log_q in enumerate((early, made.logits[0, first:].float().log_softmax(-1))):
            kls[at].append(kl_div(log_q, said, log_target=True, reduction="none").sum(-1))
    return torch.cat(kls[0]), torch.cat(kls[1])


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "falcon_alibi"])
def test_a_step_learns_what_the_models_own_forward_says_it_should(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of the vocabulary remembered, so that KLs are whole ones."""
    monkeypatch.setattr("eexit.training.student.layer_loss.REMEMBERED", 1 << 20)
    pair, texts = adapted(architecture)
    parameters = adapter_parameters(pair.model)
    loss, layer = LayerLoss(pair, weight=2.5), EXITABLE[1]
    for _ in range(2):  # the second time, it is known what the teacher says
        learned = loss.learn(texts, layer, n_step=3)
        own = {name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None}
        pair.model.zero_grad()
    early_N, final_N = naive_kls(pair, texts, layer)
    torch.testing.assert_close(learned.kl_N, early_N.detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(learned.final_kl_N, final_N.detach(), atol=1e-4, rtol=1e-3)
    ((early_N.sum() + 2.5 * final_N.sum()) / 3).backward()
    assert any(gradient.abs().max() > 1e-4 for gradient in own.values())
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            torch.testing.assert_close(own[name], parameter.grad, atol=1e-4, rtol=1e-2, msg=name)


def test_gradients_are_those_of_finite_differences(llama: PreTrainedModel) -> None:
    pair, texts = adapted("llama")
    loss, layer = LayerLoss(pair), EXITABLE[0]
    loss.learn(texts, layer, n_step=1)
    parameters = adapter_parameters(pair.model)
    slopes = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    name = max(slopes, key=lambda name: slopes[name].abs().max().item())
    parameter, at = parameters[name], divmod(int(slopes[name].abs().argmax()), slopes[name].shape[1])
    gradient, step, sums = slopes[name][at].item(), 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[at] += sign * step
            sums.append(_kls(loss, texts, layer))
            parameter[at] -= sign * step
    assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(gradient, rel=0.02), name


def _kls(loss: LayerLoss, texts: Sequence[Text], layer: int) -> float:
    with torch.enable_grad():
        learned = loss.learn(texts, layer, n_step=1)
    return float(learned.kl_N.double().sum() + learned.final_kl_N.double().sum())


def test_early_layers_have_their_turn_first_and_the_final_layer_weighs_what_it_must() -> None:
    loss = LayerLoss(pair_of("llama"))
    early, deeper = loss.pair.layers[0], set(loss.pair.layers)
    assert {loss.layer(step, 0.0) for step in range(20)} == {early}
    assert {loss.layer(step, 0.25) for step in range(20)} == {loss.layer(step, 1.0) for step in range(20)} == deeper
    for _ in range(100):
        loss.weigh(0.5)
    assert loss.weight == MOST_WEIGHT
    loss.weigh(0.98)
    assert loss.weight < MOST_WEIGHT
    for _ in range(500):
        loss.weigh(1.0)
    assert loss.weight == 1


def test_a_point_of_the_curve_is_what_layers_say_of_the_texts(llama: PreTrainedModel) -> None:
    pair, texts = adapted("llama")
    n, skipped, agreement_X, kl_X = measure(LayerLoss(pair), [texts[:1], texts[1:]])
    layers = (*EXITABLE, FINAL)
    agrees: list[list[bool]] = []
    for text in texts:
        ids, first = torch.tensor([[*text.prompt_token_ids, *text.token_ids[:-1]]]), len(text.prompt_token_ids)
        with torch.no_grad():
            with pair.model.disable_adapter():
                said = pair.model(input_ids=ids).logits[0, first:].argmax(-1)
            made = pair.model(input_ids=ids, output_hidden_states=True)
            read = [pair.reader.decoder.read(made.hidden_states[layer + 1][0, first:]) for layer in EXITABLE]
        own = torch.stack([each.argmax(-1) for each in (*read, made.logits[0, first:])], 1)
        agrees += (own == said[:, None]).tolist()
    assert n == len(agrees)
    assert agreement_X == pytest.approx([sum(column) / len(agrees) for column in zip(*agrees, strict=True)])
    leaves = [next((layer for layer, yes in zip(layers, row, strict=True) if yes), FINAL) for row in agrees]
    assert skipped == pytest.approx(1 - sum(layer + 1 for layer in leaves) / len(leaves) / (FINAL + 1))
    assert 0 < agreement_X[-1] < 1
    assert all(kl > 0 for kl in kl_X)


def test_points_come_at_doublings_and_tell_what_the_last_one_gained() -> None:
    curve, due = Curve(3), []
    for tokens in range(0, 9000, 300):
        if curve.is_due(tokens):
            share = 0.5 + 0.01 * math.log2(max(tokens, 500) / 500)
            curve.add(Point(tokens, tokens / 10, 0.5, 99, 0.2, (share, share + 0.1, 1.0), (1.0, 0.5, 0.0)))
            due.append(tokens)
            assert curve.gain() is None or curve.gain() == pytest.approx(1.0, abs=0.5)
    assert due == [0, 1200, 2100, 4200, 8100]
    assert [point.tokens for point in curve.points] == due
    rows = curve.points[1].rows((1, 3, FINAL))
    assert [row["layer"] for row in rows] == [None, 1, 3, FINAL]
    assert rows[1]["agreement"] == pytest.approx(curve.points[1].agreement_X[0])
    assert (rows[0]["n"], rows[0]["multiplying"], rows[0]["skipped"]) == (99, 0.5, 0.2)
