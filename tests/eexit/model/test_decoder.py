from typing import Any

import torch
import transformers as tf
from references import decoder_of
from traces import kl_request, traces_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Decoding
from eexit.model.layers import Decoder

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


def test_a_raw_readout_leaves_the_norm_out(any_model: PreTrainedModel) -> None:
    decoder = decoder_of(any_model)
    hidden = torch.randn(3, 32)
    with torch.inference_mode():
        assert not torch.allclose(decoder.read(hidden), decoder.head(decoder.unnormed(hidden)))


def test_a_language_model_within_another_decodes_as_it_does() -> None:
    """Gemma 4 looks for images among embeddings."""
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
