"""Visiting the layers of transformers' own forward changes nothing, and leaves the model as it was."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import pytest
import torch
import transformers as tf
from references import decoder_of, reference_of, shared_model
from rows import KINDS
from tiny_models import ARCHITECTURES, GROUPED, shallow_model
from torch import Tensor
from traces import assert_same, kl_request, traces_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig
from eexit.model.layers import Decoder, ForwardInputs, VisitedLayer

CPU: Final = torch.device("cpu")
TEXTS: Final = ((5, 80, 7), tuple(range(30, 47)), (9, 8, 60, 61, 3, 3, 41, 12, 88))  # of several lengths
LONGEST: Final = len(TEXTS[1])


@torch.inference_mode()
def own_logits(model: PreTrainedModel, text: tuple[int, ...]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([text])).logits
    return logits[0]


@torch.inference_mode()
def test_each_layer_is_visited_once_and_the_logits_are_the_models_own(any_model: PreTrainedModel) -> None:
    """For texts alone, and for rows of several lengths in passes over a few columns."""
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
    assert not torch.allclose(decoder.head_input(hidden_BD), decoder.head_input(hidden_BD, with_norm=False))
    whole, cache = ForwardInputs.from_texts(TEXTS, CPU), decoder.cache(len(TEXTS), LONGEST)
    for start, stop in ((0, 12), (12, 13), (13, LONGEST)):
        columns = whole.token_BT[:, start:stop], whole.position_BT[:, start:stop], whole.attention_mask_BC[:, :stop]
        ready_BTH = decoder.run(VisitedLayer.run, ForwardInputs(*columns), cache)
    for text, ready_TH in zip(TEXTS, ready_BTH, strict=True):
        n = min(len(text), LONGEST - 13)
        logits, expected = decoder.lm_head(ready_TH[-n:]), own_logits(any_model, text)[-n:]
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=2e-3)


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


def fail(*_: object) -> Tensor:
    raise ZeroDivisionError


@torch.inference_mode()
def test_the_models_own_forward_works_during_a_run_after_it_and_after_one_that_failed(llama: Any) -> None:
    decoder, prompt, expected = decoder_of(llama), torch.tensor([TEXTS[0]]), own_logits(llama, TEXTS[1])
    generate = partial(llama.generate, prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    before = generate().tolist()

    def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
        assert torch.equal(other.submit(own_logits, llama, TEXTS[1]).result(), expected)
        return layer.run(hidden_BTW)

    with ThreadPoolExecutor(1) as other:
        ready_1TH = decoder.run(visit, ForwardInputs.from_texts(TEXTS[1:2], CPU), decoder.cache(1, LONGEST))
    assert torch.equal(decoder.lm_head(ready_1TH[0]), expected)
    with pytest.raises(ZeroDivisionError):
        decoder.run(
            lambda layer, hidden_BTW: layer.run(hidden_BTW, (fail, fail) if layer.index == 3 else ()),
            ForwardInputs.from_texts(TEXTS, CPU), decoder.cache(3, LONGEST),
        )  # fmt: skip
    assert not any("forward" in vars(module) for module in llama.modules())
    assert type(llama.config._attn_implementation) is str
    assert generate().tolist() == before


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


SWITCH: Final = 40  # tokens, after which the angles of families with LongRoPE are others
SHORT, LONG = tuple(range(3, 20)), tuple(range(2, 52))
DECODING: Final = DecodingConfig(exitable_layers=(1, 3), max_new_tokens=10, eos_token_ids=frozenset(), record_top_k=2)


@pytest.mark.parametrize("architecture", ["phi3_longrope", "phimoe"])
def test_long_rows_beside_short_ones_are_as_alone_and_a_row_ends_where_the_angles_switch(architecture: str) -> None:
    longrope = shared_model(architecture)
    engine, modes = Engine(decoder_of(longrope), DECODING), (("normal", None), ("frozen_residual", 0.5))
    requests = [kl_request(prompt, mode, k) for prompt in (SHORT, LONG) for mode, k in modes]
    for index, trace in engine.generate(requests):
        assert_same(trace, reference_of(longrope, requests[index], DECODING))
    requests = [kl_request(LONG[:length], "normal") for length in (SWITCH - 3, SWITCH, SWITCH + 1)]
    outcomes = dict(engine.generate(requests))
    assert "context of 40, where its rotary angles switch" in str(outcomes.pop(1))
    ends = {index: (len(trace.token_id_T), trace.finish_reason) for index, trace in traces_of(outcomes.items()).items()}
    assert ends == {0: (3, "length"), 2: (10, "length")}
