"""The engine: rows fail alone, end where they have to, and leave nothing to those that take their slots."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from card import DEVICE, N_ON_OTHER, OTHER, Card, Memory, decoder_there
from references import decoder_of, shared_model
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel
from untrained import N_LAYERS, key_maps

from eexit.decode import slots
from eexit.decode.engine import FREE_SHARE, Engine, budget_of, cache_budget, row_bytes
from eexit.decode.requests import DecodingConfig, Request, RequestFailure, RequestOutput
from eexit.method.custom import use_files
from eexit.method.kv_maps import KVMaps
from eexit.method.modes import MODES
from eexit.model.cache import KVCache
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit
from eexit.plan.grid_types import MAPPING
from eexit.plan.model_inspection import CPU_CACHE_BYTES
from eexit.plan.runs import LENGTH, STOP

DECODING = DecodingConfig(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
PROMPT = (5, 80, 7, 7, 31)
CONTEXT = 64  # of the tiny models
EXITS = [("frozen_residual", "kl", 0.5), ("unfrozen", "confidence", 0.3), ("skip", "confidence", 0.02)]
LOOPS: tuple[Configuration, ...] = (NoExit(), *(EarlyExit(m, r, p) for m, r, p in EXITS), Draft(1, 2))


@pytest.mark.usefixtures("own_exits")
def test_keys_and_values_are_freed_without_waiting_for_a_collection(llama: PreTrainedModel) -> None:
    """Python collects cycles of references by how many objects there are, and caches are few, and large."""
    use_files([str(Path(__file__).parents[2] / "support" / "my_exits.py")])
    decoder = decoder_of(llama)
    decoding = replace(DECODING, kv_maps=KVMaps.from_tensors(key_maps(decoder), range(N_LAYERS), N_LAYERS))
    requests = [Request(PROMPT, each) for each in (*LOOPS, *(EarlyExit(mode, "fixed", 1.0) for mode in MODES))]
    assert {*MAPPING, "keys_as_they_were"} <= {*MODES}
    gc.collect()
    gc.disable()
    try:
        for each in [requests, *([request] for request in requests)]:
            traces_of(Engine(decoder, decoding).generate(each))
        assert not [each for each in gc.get_objects() if isinstance(each, KVCache)]
    finally:
        gc.enable()


def test_prompts_that_cannot_be_done_fail_alone(llama: PreTrainedModel) -> None:
    requests = [kl_request(prompt, "unfrozen", 1.0) for prompt in (PROMPT, (), (1,) * 64, PROMPT)]
    outcomes = dict(Engine(decoder_of(llama), DECODING).generate(requests))
    assert outcomes[1] == RequestFailure("the prompt is empty: nothing to continue from")
    assert outcomes[2] == RequestFailure("the prompt has 64 tokens, which leaves no room in the model's context of 64")
    assert_same(outcomes[0], outcomes[3])


def test_rows_end_where_stop_fn_is_true(llama: PreTrainedModel) -> None:
    """In every loop: beside a full-depth pass, without one, and with drafts, which give several tokens at a time."""
    requests = [Request((1, 2, 3), each) for each in LOOPS]
    whole = traces_of(Engine(decoder_of(llama), DECODING).generate(requests))
    ends = [trace.token_id_T[:4].tolist() for trace in whole.values()]
    stopping = replace(DECODING, stop_fn=lambda row: any(row.token_ids[:4] == its for its in ends))
    for index, trace in traces_of(Engine(decoder_of(llama), stopping).generate(requests)).items():
        assert trace.token_id_T.tolist() == whole[index].token_id_T[:4].tolist()
        assert (trace.finish_reason, whole[index].finish_reason) == (STOP, LENGTH)


def test_an_early_exit_pass_whose_numbers_blow_up_fails_alone(llama: PreTrainedModel) -> None:
    engine, passes = Engine(decoder_of(llama), DECODING), iter(range(99))
    handle = llama.model.layers[6].mlp.register_forward_hook(  # the prefill, a full-depth pass and an early-exit pass
        lambda _, __, output: output * torch.nan if next(passes) == 2 else output
    )
    outcomes = dict(engine.generate([kl_request(PROMPT, mode, 1e9) for mode in ("frozen_residual", "unfrozen")]))
    handle.remove()
    assert outcomes[0] == RequestFailure("the model's output is not finite at generated token 1")
    assert isinstance(outcomes[1], RequestOutput)


@pytest.mark.parametrize("exit", LOOPS, ids=str)
@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_row_takes_nothing_over_from_a_broken_one(llama: PreTrainedModel, exit: Configuration, n_rows: int) -> None:
    """Check rows after it and beside it. The longer prompt's keys and values are NaN in more columns."""
    engine, request = Engine(decoder_of(llama), replace(DECODING, max_rows=n_rows)), Request(PROMPT, exit)
    [expected] = traces_of(engine.generate([request])).values()
    unused = max(set(range(97)) - {*PROMPT, *expected.token_id_T.tolist()})
    broken = replace(request, prompt_token_ids=(unused,) * 9)
    weight: Any = llama.get_input_embeddings().weight.data
    original, weight[unused] = weight[unused].clone(), torch.nan
    outcomes = dict(engine.generate([broken, request, broken, request]))
    weight[unused] = original
    for index in (0, 2):
        assert outcomes[index] == RequestFailure("the model's output is not finite at generated token 0")
        assert_same(outcomes[index + 1], expected)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neo", "bloom", "mpt"])
def test_rows_beside_others_reach_the_end_of_the_context(
    monkeypatch: pytest.MonkeyPatch, architecture: str, kind: int
) -> None:
    """GPT-Neo and MPT have masks or biases for no more columns. Room for records grows with the rows."""
    decoder, decoding = decoder_of(shared_model(architecture)), replace(DECODING, max_new_tokens=10**9, max_rows=3)
    prompts = tuple(range(3, 3 + CONTEXT - 4)), PROMPT[:3], PROMPT[2:]
    fixed = EarlyExit("unfrozen", "fixed", 3.0), EarlyExit("frozen_residual", "fixed", 3.0)
    exits: Sequence[Configuration] = ((NoExit(),), fixed, (EarlyExit("unfrozen", "kl", 1.0),), (Draft(3, 4),))[kind]
    requests = [Request(prompt, each) for prompt in prompts for each in exits]
    alone = [traces_of(Engine(decoder, decoding).generate([request]))[0] for request in requests[::2]]
    monkeypatch.setattr(slots, "FIRST_ROOM_TOKENS", 4)
    together = traces_of(Engine(decoder, decoding).generate(requests))
    for index, request in enumerate(requests):
        n_tokens = CONTEXT - len(request.prompt_token_ids)
        assert (len(together[index].token_id_T), together[index].finish_reason) == (n_tokens, LENGTH)
        if index % 2 == 0:
            assert_same(together[index], alone[index // 2])


@pytest.mark.parametrize("rows_of_room", [1, 5, 100])
def test_rows_fit_the_cards_memory(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, rows_of_room: int) -> None:
    exits = [("normal", None), ("unfrozen", 0.3), ("unfrozen", 3), ("frozen_residual", 0), ("frozen_residual", 1)]
    decoding, requests = replace(DECODING, max_new_tokens=3), [kl_request(PROMPT, *each) for each in exits]
    with Card():
        engine = Engine(decoder_there(llama), decoding)
        room = rows_of_room * row_bytes(True, engine.decoders, decoding, len(PROMPT) + 3, requests)
        monkeypatch.setattr(Memory, "taken", (1 << 30) - int(room / FREE_SHARE) - 100)
        outcomes = traces_of(engine.generate(requests))
        assert engine.n_slots == min(rows_of_room, len(requests))
        half = Engine(engine.decoder, replace(decoding, memory_share=2**-30 * room / FREE_SHARE / 2))
        for index, outcome in half.generate(requests):
            assert_same(outcome, outcomes[index])
        assert half.n_slots == max(1, min(rows_of_room // 2, len(requests)))


def test_of_two_cards_the_fuller_one_limits_the_rows(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU, and a device without figures of its memory, have a fixed budget."""
    decoder, free = decoder_there(llama, spread=True), {DEVICE: 1 << 30, OTHER: 1 << 29}
    monkeypatch.setattr(Memory, "mem_get_info", lambda its, device: (free[device], 1 << 30))
    assert budget_of(decoder, 1.0) == int(FREE_SHARE * (1 << 29)) * 7 // N_ON_OTHER
    free[OTHER] = 1 << 30
    assert budget_of(decoder, 1.0) == int(FREE_SHARE * (1 << 30)) * 7 // (7 - N_ON_OTHER)
    assert cache_budget(torch.device("cpu"), 1.0) == cache_budget(torch.device("mps"), 1.0) == CPU_CACHE_BYTES
