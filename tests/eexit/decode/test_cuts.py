"""A model with a block of its layers cut out is what transformers' own modules compute with the map in their place."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ran import run_alone
from references import decoder_of, shared_model
from rows import KINDS
from safetensors.torch import save_file
from torch import nn
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine, refuse_mode
from eexit.decode.prices import find_prices
from eexit.decode.rows.decoders import take_apart
from eexit.decode.rows.requests import Decoding, Request
from eexit.decode.scoring import score
from eexit.decode.trace import Trace
from eexit.errors import UsageError
from eexit.model.adapters import CUT_WEIGHTS, Cut, cut_out, is_cut, own_weights, read_cut
from eexit.plan.configuration import Exit, Normal

N_LAYERS, WIDTH, N_TOKENS = 7, 32, 6
DECODING = Decoding((1, 3, 5), max_new_tokens=N_TOKENS, eos_token_ids=frozenset(), record_top_k=0)
WHOLE = Exit("unfrozen", "fixed", 6.0)  # all layers that are left
PROMPTS = ((5, 80, 7, 7, 31, 2, 2, 64, 9), (1, 2, 3), (90, 17, 17, 4, 8))


def cut_of(layers: range, seed: int = 0) -> Cut:
    generator = torch.Generator().manual_seed(seed)
    return Cut(layers, 0.2 * torch.randn(WIDTH, WIDTH, generator=generator), torch.randn(WIDTH, generator=generator))


@contextmanager
def cutting(layers: Sequence[nn.Module], cut: Cut) -> Iterator[None]:
    """The model's own layers give what the cut has in their place, whatever they compute."""

    def instead(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if layer == cut.layers.start:
                hidden = hidden + hidden @ cut.weight_WW + cut.bias_W
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    with ExitStack() as stack:
        for layer in cut.layers:
            handle = layers[layer].register_forward_hook(instead(layer), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@torch.inference_mode()
def naive_text(model: PreTrainedModel, prompt: tuple[int, ...], cut: Cut) -> list[int]:
    """The first token is the model's, and each of the others what it says with the cut, of the whole text at once."""
    ids = [*prompt, int(model(torch.tensor([prompt]), use_cache=False).logits[0, -1].argmax())]
    with cutting(decoder_of(model).layers, cut):
        while len(ids) < len(prompt) + N_TOKENS:
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def run(model: PreTrainedModel, cut: Cut, configurations: Sequence[Any], packed: bool = False) -> dict[int, Trace]:
    """All prompts under all these configurations, in one batch."""
    decoder = decoder_of(model)
    requests = [Request(prompt, each) for each in configurations for prompt in PROMPTS]
    return traces_of(Engine(decoder, DECODING, cut_out(decoder, cut, packed)).generate(requests))


@pytest.mark.parametrize(("at", "architecture"), [*enumerate(KINDS)])
def test_a_batch_says_what_transformers_own_modules_say_in_a_plain_loop(at: int, architecture: str) -> None:
    """Of a layer, or of a block of them."""
    model, cut = shared_model(architecture), cut_of((range(1, 2), range(2, 5))[at % 2])
    traces, n = run(model, cut, [WHOLE, Normal()]), len(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        cut_ids, own_ids = (traces[row].token_id_T.tolist() for row in (index, n + index))
        assert cut_ids == naive_text(model, prompt, cut)
        assert own_ids == naive_text(model, prompt, replace(cut, layers=range(0)))
        assert set(traces[index].exit_layer_T.tolist()) == {N_LAYERS - 1}
        assert traces[index].final_token_id_T[0] == own_ids[0]
    assert any(traces[index].token_id_T.tolist() != traces[n + index].token_id_T.tolist() for index in range(n))


@pytest.mark.parametrize("architecture", ["llama", "falcon"])
def test_exits_of_a_cut_model_are_those_of_the_same_text_scored_at_once(architecture: str) -> None:
    model, cut = shared_model(architecture), cut_of(range(2, 5))
    decoder = decoder_of(model)
    exits = [Exit(state, *rule) for state in ("unfrozen", "frozen_residual") for rule in RULES]
    traces, student = run(model, cut, exits), cut_out(decoder, cut)
    for index, trace in traces.items():
        configuration, prompt = exits[index // len(PROMPTS)], PROMPTS[index % len(PROMPTS)]
        request = Request(prompt, configuration)
        scored = score(decoder, DECODING, request, tuple(trace.token_id_T.tolist()), student)
        np.testing.assert_array_equal(scored.exit_layer_T, trace.exit_layer_T)
        if index % len(PROMPTS) == index // len(PROMPTS) % len(PROMPTS):  # one of each rule and state
            [alone] = traces_of(Engine(decoder, DECODING, student).generate([request])).values()
            np.testing.assert_array_equal(alone.exit_layer_T, trace.exit_layer_T)
            np.testing.assert_array_equal(alone.token_id_T, trace.token_id_T)
    assert {layer for trace in traces.values() for layer in trace.exit_layer_T[1:].tolist()} == {1, 3, 5, 6}


RULES = (("confidence", 0.5), ("fixed", 3.0), ("kl", 1.0), ("fixed", 6.0))


def test_the_map_is_packed_as_the_layers_are(llama: PreTrainedModel) -> None:
    plain, packed = (run(llama, cut_of(range(2, 5)), [WHOLE], packed) for packed in (False, True))
    for index, trace in plain.items():
        np.testing.assert_array_equal(trace.token_id_T, packed[index].token_id_T)


@pytest.mark.parametrize("layers", [range(1, 2), range(2, 5)])
def test_a_cut_costs_what_is_left_and_its_map(llama: PreTrainedModel, layers: range) -> None:
    decoder = decoder_of(llama)
    student = cut_out(decoder, cut_of(layers))
    own, prices = find_prices(decoder, DECODING), find_prices(decoder, DECODING, student)
    cut_prices = prices.student
    assert own.student is None
    assert cut_prices
    left = [layer for layer in range(N_LAYERS) if layer not in layers]
    assert cut_prices.layer_L[left].tolist() == own.layer_L[left].tolist()
    assert cut_prices.layer_L[layers].tolist() == [WIDTH**2, *[0] * (len(layers) - 1)]
    assert cut_prices.keys_L[layers].sum() == cut_prices.position_L[layers].sum() == 0
    n_decided, n_prompt = N_TOKENS - 1, len(PROMPTS[0])
    n_attended = sum(n_prompt + index + 1 for index in range(n_decided))
    saved = n_decided * (own.layer_L[layers].sum() - WIDTH**2) + n_attended * own.position_L[layers].sum()
    ran = run_alone(llama, decoder, DECODING, Request(PROMPTS[0], WHOLE), student)
    assert ran.columns["cost_full"] == ran.columns["cost_run"] + saved
    assert ran.columns["cost_run"] == ran.columns["cost_needed"]
    assert ran.columns["layers_run"] == n_decided * len(left)
    assert ran.columns["keys_written"] == 0


def test_keys_of_layers_that_are_left_out_are_neither_written_nor_counted(llama: PreTrainedModel) -> None:
    decoder, written, counted = decoder_of(llama), 0, 0
    student = cut_out(decoder, cut_of(range(2, 5)))
    for prompt in PROMPTS:
        for threshold in (0.3, 0.5, 0.7):
            exiting = Exit("frozen_residual", "confidence", threshold)
            frozen = run_alone(llama, decoder, DECODING, Request(prompt, exiting), student)
            written, counted = written + frozen.columns["keys_written"], counted + int(frozen.counts.keys_T.sum())
    assert 0 < written < counted


def test_a_cut_is_read_from_a_folder_and_a_misfit_is_refused(llama: PreTrainedModel, tmp_path: Path) -> None:
    cut = cut_of(range(2, 5))
    save_file(cut.tensors(), tmp_path / CUT_WEIGHTS)
    assert is_cut(str(tmp_path))
    held = read_cut(str(tmp_path))
    assert held.layers == cut.layers
    assert torch.equal(held.weight_WW, cut.weight_WW)
    assert own_weights(llama, str(tmp_path)) == WIDTH**2 + WIDTH
    decoders = take_apart(llama, str(tmp_path), packed=False)
    assert decoders.student.whole is decoders.teacher
    assert not decoders.are_one
    for other in (replace(cut, layers=range(5, 9)), Cut(cut.layers, torch.zeros(8, 8), torch.zeros(8))):
        save_file(other.tensors(), tmp_path / CUT_WEIGHTS)
        with pytest.raises(UsageError, match=f"^--adapter {tmp_path} can't be used with this model: it is of a model"):
            take_apart(llama, str(tmp_path), packed=False)
    (tmp_path / CUT_WEIGHTS).write_bytes(b"no")
    assert not is_cut(str(tmp_path))


def test_copies_of_keys_are_refused_where_a_layer_has_none(llama: PreTrainedModel) -> None:
    student = cut_out(decoder_of(llama), cut_of(range(2, 5)))
    with pytest.raises(UsageError, match="mode frozen_cache can't be used with this model"):
        refuse_mode("frozen_cache", student)
    refuse_mode("skip", student)
