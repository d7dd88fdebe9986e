import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers as tf
from accelerate import dispatch_model
from byte_model import sweep_of
from card import Card
from peft import LoraConfig, get_peft_model
from tiny_models import SIZES, shallow_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from eexit.errors import UsageError
from eexit.model.layers import Decoder
from eexit.plan.model_description import estimate_memory

SMALL: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
LLAMA4: dict[str, Any] = {**SMALL, **HEADS, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2}
LONG: dict[str, Any] = {"max_position_embeddings": 9000, "layer_types": ["full_attention"] * 4}
BART: dict[str, Any] = {"encoder_layers": 4, "decoder_layers": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
SHARING: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
           "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}  # fmt: skip
LORA = LoraConfig(target_modules=["v_proj"])
PADDING = "left padding beside a longer sequence changes its logits by .*%"
LACKING: list[tuple[Callable[[], PreTrainedConfig], str]] = [
    (lambda: tf.MambaConfig(**SMALL, state_size=4), "it has no attention heads .a state-space model"),
    (lambda: tf.Qwen3NextConfig(**SMALL, **HEADS), "it has layers of kind linear_attention"),
    (lambda: tf.OpenAIGPTConfig(vocab_size=97, n_embd=32, n_layer=4, n_head=4), "layer 0 keeps no keys and values"),
    (lambda: tf.XLNetConfig(vocab_size=97, d_model=32, n_layer=4, n_head=4), "it keeps memories outside the KV cache"),
    (lambda: tf.BertConfig(**SMALL, **HEADS, is_decoder=True), "BertEncoder, .*, takes embeddings made elsewhere"),
    (lambda: tf.BartConfig(vocab_size=97, d_model=32, **BART), f"{PADDING}; it takes no position_ids"),
    (lambda: tf.TrOCRConfig(**SIZES, decoder_layers=7, decoder_attention_heads=4), f"{PADDING}; it takes no position_"),
    (lambda: tf.Gemma3nTextConfig(**SMALL, **HEADS, **SHARING), "it has layers that keep no keys and values"),
    (lambda: tf.DoryConfig(**SMALL, **HEADS), "its layers don't run once each, in order: layer 0 comes"),
    (lambda: tf.MoshiConfig(**SMALL, **HEADS, sliding_window=8), "layer 0 has a window of 8 tokens that its masks"),
    (lambda: tf.Llama4TextConfig(**LLAMA4, attention_chunk_size=8), "it has layers of kind chunked_attention"),
    (lambda: tf.Llama4TextConfig(**LLAMA4, **LONG), "its logits change when its layers are visited: it takes "),
]


def refusal_of(model: Any) -> str:
    with pytest.raises(UsageError) as refusal:
        Decoder(model)
    return str(refusal.value)


@pytest.mark.parametrize(("make", "message"), LACKING)
def test_a_kind_of_model_without_what_is_needed(make: Callable[[], PreTrainedConfig], message: str) -> None:
    model = AutoModelForCausalLM.from_config(make()).eval()
    assert re.match(f"{type(model).__name__} is not supported: {message}", refusal_of(model))


def test_an_encoder_decoder_and_a_configuration_whose_weights_are_not_there(tmp_path: Path) -> None:
    model = tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=97, d_model=32, num_layers=2))
    assert "T5ForConditionalGeneration is not supported: it is an encoder-decoder" in refusal_of(model)
    tf.MambaConfig(**SMALL, state_size=4).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"model .* is not supported: it has no attention heads"):
        estimate_memory(sweep_of(tmp_path))


def hooked(path: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any], object]:
    """Change the output of a module, (B, T, D)."""
    return lambda model: model.get_submodule(path).register_forward_hook(lambda _, __, output: change(output))


def move_at_the_end(model: Any) -> None:
    def move(_: nn.Module, __: object, output: Any) -> None:
        output.last_hidden_state = output.last_hidden_state + 1

    model.model.register_forward_hook(move)


def compile_forward(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    module.forward = torch.compile(module.forward)


COMPILED = r"the model is compiled.*: load it without torch\.compile"
DONE: list[tuple[Callable[[Any], object], str]] = [
    (hooked("model.layers.1.mlp", lambda out: out.mean(0, keepdim=True).expand_as(out)), PADDING),
    (hooked("model.layers.1.self_attn.q_proj", lambda out: out[:1].expand_as(out)), PADDING),
    (hooked("model.layers.2", lambda out: out * (1 + 0.1 * (len(out) > 1)) + 0.01 * (len(out) > 1)), PADDING),
    # Where tokens run together.
    (hooked("model.layers.2", lambda out: out + 0.1 * (out.shape[1] == 2)), "running the skipped layers of deferred "),
    (hooked("model.layers.1.self_attn.k_proj", torch.rand_like), "layer .: its keys and values change when its "),
    (hooked("model.layers.1.mlp", torch.rand_like), "its logits change when its layers are visited$"),
    (move_at_the_end, "its logits don't follow from the hidden state after its last layer"),
    (partial(compile_forward, path=""), COMPILED),
    (partial(compile_forward, path="model.layers.2"), COMPILED),
    (lambda model: model.get_submodule("model.layers.2.mlp").compile(), COMPILED),
    (lambda model: get_peft_model(model, LORA), r"it has an adapter of peft .*: .*merge_and_unload\(\).* adapter="),
    (lambda model: model.model.layers[1].to("meta"), r"model\.layers\.1\.self_attn\.q_proj\.weight .*device_map"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.compile's and peft's code
@pytest.mark.parametrize(("change", "message"), DONE)
def test_a_model_to_which_something_has_been_done(change: Callable[[Any], object], message: str) -> None:
    model = shallow_model("llama")
    change(model)
    assert re.match(f"LlamaForCausalLM is not supported: {message}", refusal_of(model))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers' and peft's own code
def test_what_has_been_done_can_be_undone() -> None:
    training, wrapped = cast(Any, shallow_model("gpt2")), cast(Any, get_peft_model(shallow_model("llama"), LORA))
    training.train().gradient_checkpointing_enable()
    assert re.match(r".* the model is in training mode: call model\.eval\(\) before$", refusal_of(training))
    Decoder(training.eval())
    assert "PeftModel is not supported: it has an adapter of peft" in refusal_of(wrapped)
    Decoder(wrapped.merge_and_unload())
    for model in map(shallow_model, ("llama", "bloom")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert re.search(r"torch\.autocast is on.*dtype=torch.bfloat16", refusal_of(model))
        Decoder(model)


def test_a_model_offloaded_in_part_or_with_a_layer_on_two_devices(llama: PreTrainedModel, tmp_path: Path) -> None:
    offloaded = "is offloaded to the CPU's memory or to disk, and other weights are on"
    with Card() as card:
        model = card.take(llama, spread=True)
        model.model.layers[3].to_empty(device="meta")
        assert f"{offloaded} privateuseone:0, privateuseone:1: load it onto as many devices" in refusal_of(model)
        model = card.take(llama)
        model.lm_head = nn.Linear(32, 97, bias=False)
        assert "lm_head.weight is in the CPU's memory, and other weights are on privateuseone:0: " in refusal_of(model)
        model = card.take(llama, spread=True)
        model.model.layers[3].mlp = model.model.layers[0].mlp
        assert "layer 3 is on privateuseone:0 and privateuseone:1: give a device_map" in refusal_of(model)
    on_disk = dispatch_model(copy.deepcopy(llama), {"": "cpu", "model.layers.3": "disk"}, offload_dir=str(tmp_path))
    assert f"{offloaded} the CPU: " in refusal_of(on_disk)
