from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from references import decoder_of
from traces import kl_request, traces_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Decoding
from eexit.errors import UsageError
from eexit.model.layers import Decoder

SMALL: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4}
LLAMA4: dict[str, Any] = {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
BART: dict[str, Any] = {"encoder_layers": 4, "decoder_layers": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
SHARING: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
           "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}  # fmt: skip


def test_a_raw_readout_leaves_the_norm_out(any_model: PreTrainedModel) -> None:
    decoder = decoder_of(any_model)
    hidden = torch.randn(3, 32)
    with torch.inference_mode():
        assert not torch.allclose(decoder.read(hidden), decoder.head(decoder.unnormed(hidden)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=97, d_model=32, num_layers=2)),
         "T5ForConditionalGeneration is not supported: it is an encoder-decoder"),
        (lambda: AutoModelForCausalLM.from_config(tf.MambaConfig(**SMALL, state_size=4)),
         "MambaForCausalLM is not supported: it has no attention heads .a state-space model"),
        (lambda: AutoModelForCausalLM.from_config(tf.Qwen3NextConfig(**SMALL, **HEADS)),
         "Qwen3NextForCausalLM is not supported: it has layers of kind linear_attention"),
        (lambda: AutoModelForCausalLM.from_config(tf.OpenAIGPTConfig(vocab_size=97, n_embd=32, n_layer=4, n_head=4)),
         "OpenAIGPTLMHeadModel is not supported: layer 0 keeps no keys and values per position"),
        (lambda: AutoModelForCausalLM.from_config(tf.XLNetConfig(vocab_size=97, d_model=32, n_layer=4, n_head=4)),
         "XLNetLMHeadModel is not supported: it keeps memories of its own"),
        (lambda: AutoModelForCausalLM.from_config(tf.BertConfig(**SMALL, **HEADS, is_decoder=True)),
         "BertLMHeadModel is not supported: BertEncoder, which runs its layers, takes embeddings"),
        (lambda: AutoModelForCausalLM.from_config(tf.BartConfig(vocab_size=97, d_model=32, **BART)),
         "BartForCausalLM is not supported: it takes no position_ids"),
        (lambda: AutoModelForCausalLM.from_config(tf.Gemma3nTextConfig(**SMALL, **HEADS, **SHARING)),
         "Gemma3nForCausalLM is not supported: it has layers that keep no keys and values of their own"),
        (lambda: AutoModelForCausalLM.from_config(tf.DoryConfig(**SMALL, **HEADS)),
         "DoryForCausalLM is not supported: its layers run more than once for a token"),
        (lambda: AutoModelForCausalLM.from_config(tf.DogeConfig(**SMALL, **HEADS)),
         "DogeForCausalLM is not supported: layer 0 masks other positions than later ones"),
        (lambda: AutoModelForCausalLM.from_config(tf.MoshiConfig(**SMALL, **HEADS, sliding_window=8)),
         "MoshiForCausalLM is not supported: layer 0 has a window of 8 tokens that its masks don't have"),
        (lambda: AutoModelForCausalLM.from_config(tf.Llama4TextConfig(
            **SMALL, **HEADS, **LLAMA4, max_position_embeddings=9000, layer_types=["full_attention"] * 4)),
         "the query in layer 3 for positions .*8192.* it takes positions from the length of the cache"),
        (lambda: AutoModelForCausalLM.from_config(tf.Llama4TextConfig(
            **SMALL, **HEADS, **LLAMA4, attention_chunk_size=8)),
         "Llama4ForCausalLM is not supported: it has layers of kind chunked_attention"),
    ],
    ids=["encoder-decoder", "state-space", "linear-attention", "no-cache", "memories",
         "encoder-within", "no-positions", "shared-keys", "looped",
         "mask-by-value", "window-of-the-cache", "temperature-by-position", "chunks"],
)  # fmt: skip
def test_a_model_that_cannot_be_supported_says_what_is_missing(
    make: Callable[[], PreTrainedModel], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Decoder(make().eval())


def test_a_language_model_within_another_decodes_as_it_does() -> None:
    """Gemma 4 looks for images among embeddings, and would take residual streams for some."""
    text = SMALL | HEADS | {"vocab_size": 100, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 2}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8}
    text |= {"vocab_size_per_layer_input": 100, "sliding_window": 8, "initializer_range": 0.3}
    placeholders: dict[str, Any] = {"image_token_id": 97, "video_token_id": 98, "audio_token_id": 99}
    torch.manual_seed(0)
    config = tf.Gemma4Config(text_config=text, vision_config=None, audio_config=None, **placeholders)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    decoding = Decoding(exitable_layers=(1, 2), max_new_tokens=12, eos_token_ids=frozenset(), record_top_k=1)
    prompt = (5, 80, 7, 7, 31)
    [trace] = traces_of(Engine(Decoder(model), decoding).generate([kl_request(prompt, "normal", None)])).values()
    generated = model.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=-1
    )
    assert trace.token_id_T.tolist() == generated[0, len(prompt) :].tolist()
