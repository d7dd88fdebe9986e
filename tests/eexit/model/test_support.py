"""Models that can't be run with exits are refused by `Decoder`, in a line with the reason."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from tiny_models import SIZES, shallow_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from eexit.errors import UsageError
from eexit.model.layers import Decoder

SMALL: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
LLAMA4: dict[str, Any] = {**SMALL, **HEADS, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2}
BART: dict[str, Any] = {"encoder_layers": 4, "decoder_layers": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
SHARING: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
           "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}  # fmt: skip
KINDS: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "state-space": (
        lambda: tf.MambaConfig(**SMALL, state_size=4), "it has no attention heads .a state-space model"
    ),
    "linear attention": (lambda: tf.Qwen3NextConfig(**SMALL, **HEADS), "it has layers of kind linear_attention"),
    "no cache": (
        lambda: tf.OpenAIGPTConfig(vocab_size=97, n_embd=32, n_layer=4, n_head=4),
        "layer 0 keeps no keys and values per position",
    ),
    "memories": (
        lambda: tf.XLNetConfig(vocab_size=97, d_model=32, n_layer=4, n_head=4), "it keeps memories outside the KV cache"
    ),
    "encoder within": (
        lambda: tf.BertConfig(**SMALL, **HEADS, is_decoder=True),
        "BertEncoder, which runs its layers, takes embeddings made elsewhere",
    ),
    "learned positions": (
        lambda: tf.BartConfig(vocab_size=97, d_model=32, **BART),
        "left padding beside a longer sequence changes its logits by .*%; it takes no position_ids",
    ),
    "positions by the longest row": (
        lambda: tf.TrOCRConfig(**SIZES, decoder_layers=7, decoder_attention_heads=4),
        "left padding beside a longer sequence changes its logits by .*%; it takes no position_ids",
    ),
    "shared keys": (
        lambda: tf.Gemma3nTextConfig(**SMALL, **HEADS, **SHARING),
        "it has layers that keep no keys and values of their own",
    ),
    "looped": (lambda: tf.DoryConfig(**SMALL, **HEADS), "its layers don't run once each, in order: layer 0 comes"),
    "window of the cache": (
        lambda: tf.MoshiConfig(**SMALL, **HEADS, sliding_window=8),
        "layer 0 has a window of 8 tokens that its masks don't have",
    ),
    "temperature by position": (
        lambda: tf.Llama4TextConfig(**LLAMA4, max_position_embeddings=9000, layer_types=["full_attention"] * 4),
        "its logits change when its layers are visited: it takes positions from the length of the cache",
    ),
    "chunks": (
        lambda: tf.Llama4TextConfig(**LLAMA4, attention_chunk_size=8), "it has layers of kind chunked_attention"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_model_without_what_is_needed(kind: str) -> None:
    make, message = KINDS[kind]
    model = AutoModelForCausalLM.from_config(make()).eval()
    with pytest.raises(UsageError, match=f"{type(model).__name__} is not supported: {message}"):
        Decoder(model)


def test_an_encoder_decoder() -> None:
    model = tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=97, d_model=32, num_layers=2))
    with pytest.raises(UsageError, match="T5ForConditionalGeneration is not supported: it is an encoder-decoder"):
        Decoder(model)


# ---- what has been done to a model


def hooked(path: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any], object]:
    """Change the output of a module, (B, T, D)."""
    return lambda model: model.get_submodule(path).register_forward_hook(lambda _, __, output: change(output))


def train_with_checkpoints(model: Any) -> None:
    model.train()
    model.gradient_checkpointing_enable()


def add_at_the_end(model: Any) -> None:
    class Adding(type(model.model)):  # type: ignore[misc]
        @wraps(type(model.model).forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.last_hidden_state = output.last_hidden_state + 1
            return output

    model.model.__class__ = Adding


def compile_forward(path: str) -> Callable[[nn.Module], None]:
    def compiled(model: nn.Module) -> None:
        module = model.get_submodule(path)
        module.forward = torch.compile(module.forward)

    return compiled


COMPILED = r"the model is compiled.*: load it without torch\.compile"
TRAINING = r"the model is in training mode: call model\.eval\(\) before$"
UNMERGED = r"it has an adapter of peft that is not merged: .*merge_and_unload\(\).* adapter="
DONE: dict[str, tuple[Callable[[Any], object], str]] = {
    "rows are mixed": (
        hooked("model.layers.1.mlp", lambda out: out.mean(0, keepdim=True).expand_as(out)),
        "left padding beside a longer sequence changes its logits by .*%$",
    ),
    "rows get those of the first": (
        hooked("model.layers.1.self_attn.q_proj", lambda out: out[:1].expand_as(out)),
        "left padding beside a longer sequence changes its logits by .*%$",
    ),
    "rows are scaled if there are several": (
        hooked("model.layers.2", lambda out: out * (1 + 0.1 * (len(out) > 1)) + 0.01 * (len(out) > 1)),
        "left padding beside a longer sequence changes its logits by .*%$",
    ),
    "tokens that run together are scaled": (
        hooked("model.layers.2", lambda out: out + 0.1 * (out.shape[1] == 2)),
        "running the skipped layers of deferred tokens later changes its logits by .*%$",
    ),
    "keys are drawn": (
        hooked("model.layers.1.self_attn.k_proj", lambda out: out + torch.rand_like(out)),
        "layer .: its keys and values change when its queries are not computed",
    ),
    "an output is drawn": (
        hooked("model.layers.1.mlp", lambda out: out + torch.rand_like(out)),
        "its logits change when its layers are visited$",
    ),
    "the stack adds to what it gives": (
        add_at_the_end, "its logits don't follow from the hidden state after its last layer"
    ),
    "a compiled model": (compile_forward(""), COMPILED),
    "a compiled layer": (compile_forward("model.layers.2"), COMPILED),
    "a compiled module": (lambda model: model.get_submodule("model.layers.2.mlp").compile(), COMPILED),
    "training": (train_with_checkpoints, TRAINING),
    "an adapter": (lambda model: get_peft_model(model, LoraConfig(target_modules=["v_proj"])), UNMERGED),
    "an offloaded layer": (
        lambda model: model.model.layers[1].to("meta"),
        r"model\.layers\.1\.self_attn\.q_proj\.weight is offloaded to the CPU's memory or to disk, .*device_map",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.compile's and peft's code
@pytest.mark.parametrize("done", DONE)
def test_a_model_to_which_something_has_been_done(done: str) -> None:
    change, message = DONE[done]
    model = shallow_model("llama")
    change(model)
    with pytest.raises(UsageError, match=f"LlamaForCausalLM is not supported: {message}"):
        Decoder(model)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers' and peft's own code
def test_checkpoints_for_gradients_without_training() -> None:
    model = shallow_model("gpt2")
    train_with_checkpoints(model)
    with pytest.raises(UsageError, match=f"GPT2LMHeadModel is not supported: {TRAINING}"):
        Decoder(model)
    Decoder(model.eval())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers' and peft's own code
def test_a_model_within_that_of_peft() -> None:
    wrapped: Any = get_peft_model(shallow_model("llama"), LoraConfig(target_modules=["v_proj"]))
    with pytest.raises(UsageError, match=f"PeftModel is not supported: {UNMERGED}"):
        Decoder(wrapped)
    Decoder(wrapped.merge_and_unload())


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_model_under_autocast(family: str) -> None:
    model: PreTrainedModel = shallow_model(family)
    for enabled, outcome in (
        (True, pytest.raises(UsageError, match=r"torch\.autocast is on.*dtype=torch.bfloat16")),
        (False, nullcontext()),
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled), outcome:
            Decoder(model)
