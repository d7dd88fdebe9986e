import pytest
import torch
import transformers as tf
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.anatomy import Decoder
from eexit.config import UsageError

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


def test_a_raw_readout_leaves_the_norm_out(any_model: PreTrainedModel):
    decoder = Decoder(any_model)
    hidden = torch.randn(3, 32)
    with torch.inference_mode():
        assert not torch.allclose(decoder.read(hidden), decoder.read(hidden, norm=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=97, d_model=32, num_layers=2)),
         "t5 is an encoder-decoder"),
        (lambda: AutoModelForCausalLM.from_config(tf.MambaConfig(**SMALL, state_size=4)),
         "mamba has no attention heads .a state-space model"),
        (lambda: AutoModelForCausalLM.from_config(tf.Qwen3NextConfig(**SMALL, **HEADS)),
         "qwen3_next has layers of kind linear_attention"),
        (lambda: AutoModelForCausalLM.from_config(tf.OpenAIGPTConfig(vocab_size=97, n_embd=32, n_layer=4, n_head=4)),
         "OpenAIGPTLMHeadModel is not supported: layer 0 keeps no keys and values per position"),
    ],
    ids=["encoder-decoder", "state-space", "linear-attention", "no-cache"],
)  # fmt: skip
def test_a_model_that_cannot_be_supported_says_what_is_missing(make, message: str):
    with pytest.raises(UsageError, match=message):
        Decoder(make().eval())
