"""Visiting the layers of transformers' own forward changes nothing, and leaves the model as it was."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import torch
import transformers as tf
from reference.generation import generate_one
from references import decoder_of, shared_model
from rows import KINDS
from tiny_models import ARCHITECTURES, GROUPED, shallow_model
from torch import Tensor
from traces import assert_same, kl_request, traces_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, RequestFailure
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer

CPU: Final = torch.device("cpu")
TEXTS: Final = ((5, 80, 7), tuple(range(30, 47)), (9, 8, 60, 61, 3, 3, 41, 12, 88))  # of several lengths
LONGEST: Final = len(TEXTS[1])
# Tokens that layers attend to, in families with windows of 8.
WINDOWS: Final = {
    **dict.fromkeys(("mistral", "mixtral", "starcoder2", "phimoe"), [8] * 7),
    **dict.fromkeys(("gemma2", "cohere2", "gpt_oss"), [8, None] * 3 + [8]),
    "gemma4": [8, None] * 3 + [None],
    "qwen2_moe": [8, None, 8, None, None, None, None],
    "qwen2": [None] * 3 + [8] * 4,
    "gemma3": [8, 8, None, 8, 8, None, 8],
}


@torch.inference_mode()
def own_logits(model: PreTrainedModel, text: tuple[int, ...]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([text])).logits
    return logits[0]


@torch.inference_mode()
def test_each_layer_is_visited_once_and_the_logits_are_the_models_own(any_model: PreTrainedModel) -> None:
    decoder, visited = decoder_of(any_model), []

    def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
        visited.append(layer.index)
        return layer.run(hidden_BTW)

    for text in TEXTS:
        visited.clear()
        ready_1TH = decoder.run(visit, ForwardInputs.from_texts([text], CPU), decoder.cache(1, len(text)))
        assert visited == list(range(decoder.n_layers))
        assert torch.equal(decoder.lm_head(ready_1TH[0]), own_logits(any_model, text))
    hidden_BD = torch.randn(3, 32)
    assert not torch.allclose(decoder.head_input(hidden_BD), decoder.head_input_without_norm(hidden_BD))


@torch.inference_mode()
def test_rows_of_several_lengths_say_what_they_say_alone(any_model: PreTrainedModel) -> None:
    decoder, cache = decoder_of(any_model), decoder_of(any_model).cache(len(TEXTS), LONGEST)
    whole = ForwardInputs.from_texts(TEXTS, CPU)
    for start, stop in ((0, 12), (12, 13), (13, LONGEST)):
        part = ForwardInputs(
            whole.token_BT[:, start:stop], whole.position_BT[:, start:stop], whole.attention_mask_BC[:, :stop]
        )
        ready_BTH = decoder.run(VisitedLayer.run, part, cache)
    for text, ready_TH in zip(TEXTS, ready_BTH, strict=True):
        n = min(len(text), LONGEST - 13)
        torch.testing.assert_close(
            decoder.lm_head(ready_TH[-n:]), own_logits(any_model, text)[-n:], rtol=1e-3, atol=2e-3
        )


def test_windows_are_those_of_the_masks() -> None:
    for architecture in ARCHITECTURES:
        assert decoder_of(shared_model(architecture)).windows == WINDOWS.get(architecture, [None] * 7), architecture


@pytest.mark.parametrize(("at", "architecture"), [*enumerate(ARCHITECTURES)])
def test_a_model_is_sound_in_half_precision(at: int, architecture: str) -> None:
    """Load kinds of families in both dtypes, others in one; in float32, the tests above load them all."""
    dtypes = (torch.bfloat16, torch.float16)
    for dtype in dtypes if architecture in KINDS else dtypes[at % 2 :][:1]:
        assert Decoder(shallow_model(architecture, dtype)).n_layers >= 3


@torch.inference_mode()
def test_a_row_may_be_as_far_off_beside_others_as_rounding_moves_it() -> None:
    """Route by rounding that depends on neighbours: it matters where two experts are equally likely."""
    model: Any = shallow_model("mixtral")
    router, seen, generator = model.model.layers[1].mlp.gate, list[Tensor](), torch.Generator().manual_seed(0)
    handle = router.register_forward_hook(lambda _, args, __: seen.append(args[0].reshape(-1, 32).double()))
    Decoder(model)
    handle.remove()
    alone_TW, other_W = seen[0], torch.randn(32, generator=generator).double()
    router.weight[1] = router.weight[0] + other_W - torch.linalg.pinv(alone_TW) @ alone_TW @ other_W
    n_alone, eps = len(alone_TW), torch.finfo(torch.float32).eps

    def round_otherwise(module: Any, args: tuple[Tensor], output: Any) -> Any:
        hidden_TW = args[0].reshape(-1, 32)
        noise_TW = eps * torch.randn(hidden_TW.shape, generator=generator)
        return output if len(hidden_TW) == n_alone else module.forward(hidden_TW * (1 + noise_TW))

    router.register_forward_hook(round_otherwise)
    assert Decoder(model).n_layers == 3


# ---- the model is as it was


def failing(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
    """Run layers, of which the third fails in a projection to keys."""

    def project(own: Callable[[Tensor], Tensor], entering: Tensor) -> Tensor:
        raise ZeroDivisionError

    return layer.run(hidden_BTW, (project, project) if layer.index == 3 else ())


def test_a_model_is_as_it_was_after_a_run_and_after_one_that_failed() -> None:
    model = shared_model("llama")
    decoder, prompt = decoder_of(model), torch.tensor([TEXTS[0]])
    generate: Any = model.generate
    before = generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0).tolist()
    inputs = ForwardInputs.from_texts(TEXTS, CPU)
    decoder.run(VisitedLayer.run, inputs, decoder.cache(3, LONGEST))
    with pytest.raises(ZeroDivisionError):
        decoder.run(failing, inputs, decoder.cache(3, LONGEST))
    assert not any("forward" in vars(module) for module in model.modules())
    assert type(model.config._attn_implementation) is str
    assert generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0).tolist() == before


@torch.inference_mode()
def test_another_thread_may_call_the_models_own_forward_during_a_run() -> None:
    model, visited = shared_model("llama"), []
    decoder, expected = decoder_of(model), own_logits(model, TEXTS[1])

    def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
        visited.append(layer.index)
        if layer.index == 2:
            assert torch.equal(other.submit(own_logits, model, TEXTS[1]).result(), expected)
        return layer.run(hidden_BTW)

    with ThreadPoolExecutor(1) as other:
        ready_1TH = decoder.run(visit, ForwardInputs.from_texts(TEXTS[1:2], CPU), decoder.cache(1, LONGEST))
    assert torch.equal(decoder.lm_head(ready_1TH[0]), expected)
    assert visited == list(range(7))


def test_a_language_model_within_another_decodes_as_it_does() -> None:
    """Check Gemma 4, whose forward searches embeddings for images."""
    text = GROUPED | {
        "vocab_size": 100, "pad_token_id": 0, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 2,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 2, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 100, "sliding_window": 8, "initializer_range": 0.3,
    }  # fmt: skip
    placeholders: Any = {"image_token_id": 97, "video_token_id": 98, "audio_token_id": 99}
    torch.manual_seed(0)
    config = tf.Gemma4Config(text_config=text, vision_config=None, audio_config=None, **placeholders)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    [trace] = traces_of(Engine(Decoder(model), DECODING).generate([kl_request(TEXTS[0], "normal", None)])).values()
    options: Any = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    generated = model.generate(torch.tensor([TEXTS[0]]), **options)
    assert generated.tolist() == [[*TEXTS[0], *trace.token_id_T.tolist()]]


# ---- rows beside others


def test_as_many_rows_as_heads_decode_as_one_does() -> None:
    mpt = shared_model("mpt")
    engine = Engine(decoder_of(mpt), DECODING)
    requests = [kl_request((5, 80, token), "frozen_residual", 0.5) for token in range(mpt.config.n_heads)]
    together = traces_of(engine.generate(requests))
    for index, request in enumerate(requests):
        [alone] = traces_of(engine.generate([request])).values()
        assert_same(together[index], alone)


SWITCH: Final = 40  # tokens, after which the angles of families with LongRoPE are others
SHORT, LONG = tuple(range(3, 20)), tuple(range(2, 52))
DECODING: Final = DecodingConfig(exitable_layers=(1, 3), max_new_tokens=10, eos_token_ids=frozenset(), record_top_k=2)


@pytest.fixture(params=["phi3_longrope", "phimoe"])
def longrope(request: pytest.FixtureRequest) -> PreTrainedModel:
    return shared_model(request.param)


def test_long_rows_beside_short_ones_are_as_the_model_makes_them_alone(longrope: PreTrainedModel) -> None:
    modes = ("normal", None), ("frozen_residual", 0.5)
    requests = [kl_request(prompt, mode, k) for prompt in (SHORT, LONG) for mode, k in modes]
    for index, trace in Engine(decoder_of(longrope), DECODING).generate(requests):
        assert_same(trace, generate_one(longrope, decoder_of(longrope), requests[index], DECODING))


def test_a_row_ends_where_the_angles_switch(longrope: PreTrainedModel) -> None:
    requests = [kl_request(LONG[:length], "normal", None) for length in (SWITCH - 3, SWITCH, SWITCH + 1)]
    outcomes = dict(Engine(decoder_of(longrope), DECODING).generate(requests))
    at_the_switch = outcomes.pop(1)
    assert isinstance(at_the_switch, RequestFailure)
    assert "context of 40, where its rotary angles switch" in at_the_switch.error
    ends = {index: (len(trace.token_id_T), trace.finish_reason) for index, trace in traces_of(outcomes.items()).items()}
    assert ends == {0: (3, "length"), 2: (10, "length")}
