from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from eexit.anatomy import Decoder
from eexit.config import Mode
from eexit.engine import Engine
from eexit.readout import pick_tokens
from eexit.rows import Decoding, Failure, Request, Trace

DECODING = Decoding(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
PROMPT = (5, 80, 7, 7, 31)


@pytest.fixture
def rows_run(llama: PreTrainedModel) -> Iterator[Counter]:
    """How many rows each layer's feed-forward block was run for, per layer."""
    counts: Counter = Counter()

    def hook(layer: int):
        def count(_: torch.nn.Module, args: tuple, __: object) -> None:
            counts[layer] += args[0].shape[0] * args[0].shape[1]

        return count

    handles = [layer.mlp.register_forward_hook(hook(index)) for index, layer in enumerate(llama.model.layers)]
    yield counts
    for handle in handles:
        handle.remove()


def test_the_student_runs_no_block_beyond_an_exit(llama: PreTrainedModel, rows_run: Counter):
    engine = Engine(Decoder(llama), DECODING)
    requests = [Request(PROMPT, Mode.FROZEN_RESIDUAL, k) for k in (0.0, 0.3, 1.0, 3.0)]
    rows_run.clear()
    outcomes = dict(engine.generate(requests))
    exits = np.concatenate([outcomes[index].exit_layer_T[1:] for index in outcomes])
    assert len(set(exits)) == 4
    for layer in range(7):
        teacher = len(PROMPT) + len(exits)  # the prompt once, then every row and step
        student = (exits >= layer).sum() if layer > 2 else 0  # up to the fork, layer 2, they are one pass
        assert rows_run[layer] == teacher + student


@pytest.mark.parametrize("mode", [Mode.NORMAL, Mode.UNFROZEN])
def test_modes_that_leave_the_state_alone_take_one_pass(llama: PreTrainedModel, rows_run: Counter, mode: Mode):
    engine = Engine(Decoder(llama), DECODING)
    rows_run.clear()
    list(engine.generate([Request(PROMPT, mode, 0.5 if mode == Mode.UNFROZEN else None)] * 3))
    assert set(rows_run.values()) == {len(PROMPT) + 3 * 11}


def test_the_model_is_left_as_it_was(llama: PreTrainedModel):
    before = llama(torch.tensor([PROMPT])).logits
    list(Engine(Decoder(llama), DECODING).generate([Request(PROMPT, Mode.FROZEN_RESIDUAL, 0.5)]))
    assert llama.config._attn_implementation == "sdpa"
    torch.testing.assert_close(llama(torch.tensor([PROMPT])).logits, before)


def test_prompts_that_cannot_be_done_fail_alone(llama: PreTrainedModel):
    good = Request(PROMPT, Mode.UNFROZEN, 1.0)
    requests = [good, replace(good, prompt_token_ids=()), replace(good, prompt_token_ids=(1,) * 64), good]
    outcomes = dict(Engine(Decoder(llama), DECODING).generate(requests))
    assert outcomes[1] == Failure("the prompt is empty: nothing to continue from")
    assert outcomes[2] == Failure("the prompt has 64 tokens, which leaves no room in the model's context of 64")
    assert isinstance(outcomes[0], Trace)
    assert outcomes[0].token_id_T.tolist() == outcomes[3].token_id_T.tolist()


def test_a_row_ends_where_the_context_does(llama: PreTrainedModel):
    [(_, trace)] = Engine(Decoder(llama), DECODING).generate([Request((1,) * 60, Mode.NORMAL, None)])
    assert (len(trace.token_id_T), trace.finish_reason) == (4, "length")


def test_a_row_whose_numbers_blow_up_fails_alone(llama: PreTrainedModel):
    broken = llama.get_input_embeddings().weight
    original = broken[40].detach().clone()
    requests = [Request(PROMPT, Mode.NORMAL, None), Request((3, 40, 5), Mode.NORMAL, None)]
    decoder = Decoder(llama)
    with torch.no_grad():
        broken[40] = torch.nan
        outcomes = dict(Engine(decoder, DECODING).generate(requests))
        broken[40] = original
    assert outcomes[1] == Failure("the model's output is not finite at generated token 0")
    assert isinstance(outcomes[0], Trace)


def test_top_p_keeps_the_fewest_tokens_that_hold_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(1000, 1)
    u = torch.arange(1000) / 1000
    assert Counter(pick_tokens(logits, 1.0, 0.75, u).tolist()) == {0: 625, 1: 375}
    assert Counter(pick_tokens(logits, 1.0, 1.0, u).tolist()) == pytest.approx({0: 500, 1: 300, 2: 150, 3: 50}, abs=1)
    assert set(pick_tokens(logits, 0.0, 1.0, u).tolist()) == {0}
