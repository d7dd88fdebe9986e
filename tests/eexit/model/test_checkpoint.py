"""An incomplete checkpoint is refused before any run, in one line that says what is wrong with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import save_byte_model, save_family
from references import decoder_of, shared_model
from safetensors.torch import load_file, save_file
from tiny_gguf import save_tiny_gguf
from tiny_models import ARCHITECTURES, GROUPED, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from eexit.errors import UsageError
from eexit.model.loading import load_model_and_tokenizer
from eexit.plan.model_description import describe_model, estimate_memory
from eexit.plan.sweep_config import SweepConfig

Weights = dict[str, torch.Tensor]
WHOLE = "The weights would be random or left out: get the whole checkpoint of one model"


def config(model: Path, **fields: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {"model": str(model), "dtype": "float32", "prompts": [{"id": "0", "prompt": "Why?"}], **fields}
    )


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without_layer_3(weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if ".layers.3." not in name}


def under_a_prefix(weights: Weights) -> Weights:
    return {f"policy.{name}": weight for name, weight in weights.items()}


def with_an_eighth_layer(weights: Weights) -> Weights:
    return weights | {name.replace(".6.", ".7."): w.clone() for name, w in weights.items() if ".layers.6." in name}


def with_fewer_tokens(weights: Weights) -> Weights:
    return weights | {"model.embed_tokens.weight": torch.zeros(200, 32)}


MISFITS = [
    (without_layer_3, "it lacks model.layers.3.input_layernorm.weight and 8 more"),
    (
        under_a_prefix,
        "it lacks lm_head.weight and 65 more; it has policy.lm_head.weight and 65 more that the architecture has no "
        "use for",
    ),
    (
        with_an_eighth_layer,
        "it has model.layers.7.input_layernorm.weight and 8 more that the architecture has no use for",
    ),
    (with_fewer_tokens, "model.embed_tokens.weight is 200 × 32 where config.json has 256 × 32"),
]


@pytest.mark.parametrize("look", [describe_model, load_model_and_tokenizer])
@pytest.mark.parametrize(("change", "problem"), MISFITS)
def test_keys_that_do_not_fit_are_refused(
    tmp_path: Path,
    look: Callable[..., Any],
    change: Callable[..., Any],
    problem: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    save_byte_model(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(UsageError) as raised:
        look(config(tmp_path))
    assert str(raised.value) == (f"model {tmp_path}: the checkpoint does not fit its config.json: {problem}. {WHOLE}")
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_checkpoints_of_every_family_are_taken_and_keep_the_keys_and_values_that_were_estimated(
    tmp_path: Path, architecture: str
) -> None:
    saved = shared_model(architecture)
    save_byte_model(tmp_path)
    tiny_model(architecture).save_pretrained(tmp_path)
    describe_model(config(tmp_path))
    _, token_bytes, *_ = estimate_memory(config(tmp_path))
    model, _ = load_model_and_tokenizer(config(tmp_path), "cpu")
    assert type(model) is type(saved)
    torch.testing.assert_close(model.state_dict(), saved.state_dict(), rtol=0, atol=0)
    assert token_bytes == 2 * decoder_of(saved).cache_bytes_per_token


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_a_tied_weight_may_be_there_once_or_twice(tmp_path: Path, kept: str) -> None:
    save_byte_model(tmp_path)
    torch.manual_seed(0)
    tied = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path)
    embedding = tied.get_input_embeddings().weight.detach()
    names = ["model.embed_tokens.weight", "lm_head.weight"] if kept == "both" else [kept]
    rewrite(
        tmp_path,
        lambda weights: (
            {k: w for k, w in weights.items() if "embed" not in k} | {name: embedding.clone() for name in names}
        ),
    )
    describe_model(config(tmp_path))
    model, _ = load_model_and_tokenizer(config(tmp_path), "cpu")
    assert torch.equal(model.get_output_embeddings().weight, embedding)


def test_masks_that_old_checkpoints_hold_are_no_weights(tmp_path: Path) -> None:
    save_byte_model(tmp_path)
    tiny_model("gpt2").save_pretrained(tmp_path)
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    rewrite(tmp_path, lambda weights: weights | masks)
    describe_model(config(tmp_path))
    load_model_and_tokenizer(config(tmp_path), "cpu")


def test_a_missing_expert_is_refused(tmp_path: Path) -> None:
    save_byte_model(tmp_path)
    AutoModelForCausalLM.from_config(MixtralConfig(**GROUPED, num_local_experts=4)).save_pretrained(tmp_path)
    rewrite(
        tmp_path, lambda weights: {k: w for k, w in weights.items() if "layers.2.block_sparse_moe.experts.1" not in k}
    )
    for look in (describe_model, load_model_and_tokenizer):
        with pytest.raises(UsageError, match=r"layers\.2\.mlp\.experts\.down_proj is 3 × 32 × 64 where .* 4 × 32 × 64"):
            look(config(tmp_path))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, number: float) -> None:
    save_byte_model(tmp_path)

    def spoil(weights: Weights) -> Weights:
        for layer in (2, 5):
            weights[f"model.layers.{layer}.mlp.up_proj.weight"][0, :3] = number
        return weights

    rewrite(tmp_path, spoil)
    with pytest.raises(UsageError) as raised:
        load_model_and_tokenizer(config(tmp_path), "cpu")
    assert str(raised.value) == (
        f"model {tmp_path}: 3 of the 2,048 numbers of model.layers.2.mlp.up_proj.weight are NaN or infinite in "
        "float32: get the checkpoint again, or try another --dtype"
    )


def test_weights_too_large_for_a_dtype_are_named_too(tmp_path: Path) -> None:
    save_byte_model(tmp_path)
    rewrite(tmp_path, lambda weights: weights | {"model.norm.weight": torch.full((32,), 1e6)})
    load_model_and_tokenizer(config(tmp_path), "cpu")
    with pytest.raises(UsageError, match=r"32 of the 32 numbers of model\.norm\.weight are NaN or infinite in float16"):
        load_model_and_tokenizer(config(tmp_path, dtype="float16"), "cpu")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def configuring(**fields: object) -> Callable[[Path], None]:
    """Change fields of config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def lose_the_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def lose_the_vocabulary(folder: Path) -> None:
    """Check Qwen2, for which transformers then makes a tokenizer with one control token."""
    save_family(folder, "qwen2")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')


NO_TOKENIZER = (
    r" has no tokenizer that can be loaded: see that tokenizer\.json and tokenizer_config\.json are beside its weights"
)


@pytest.mark.parametrize("look", [describe_model, load_model_and_tokenizer])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, r": model\.safetensors is cut off or damaged \(.*\): get it again"),
        (
            configuring(num_attention_heads="four"),
            r" can't be loaded: .*'num_attention_heads' expected int, got str \(value: 'four'\)",
        ),
        (configuring(hidden_act="nothing"), " can't be loaded: KeyError: 'nothing'"),
        (configuring(architectures=3), r": architectures in config\.json must be a list, got 3"),
        (lose_the_tokenizer, NO_TOKENIZER),
        (lose_the_vocabulary, NO_TOKENIZER),
    ],
)
def test_what_is_damaged_is_told_in_one_line(
    tmp_path: Path, look: Callable[..., Any], damage: Callable[..., Any], told: str
) -> None:
    save_byte_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError) as raised:
        look(config(tmp_path))
    assert "\n" not in str(raised.value)
    assert re.fullmatch(rf"model {re.escape(str(tmp_path))}{told}", str(raised.value))


@pytest.fixture(scope="module")
def whole_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    save_tiny_gguf(path)
    return path.read_bytes()


def test_a_gguf_is_unpacked_with_one_line(
    tmp_path: Path, whole_gguf: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.gguf").write_bytes(whole_gguf)
    assert describe_model(config(tmp_path / "tiny.gguf")).n_layers == 7
    load_model_and_tokenizer(config(tmp_path / "tiny.gguf"), "cpu")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "Unpacking tiny.gguf, once …\n")


@pytest.mark.parametrize("length", [4, 10, 500, 5000, 200_000, -10])
def test_a_gguf_that_is_cut_off_is_told(
    tmp_path: Path, whole_gguf: bytes, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cut.gguf").write_bytes(whole_gguf[:length])
    with pytest.raises(UsageError, match=r"cut\.gguf is not a whole GGUF file \(.*\): get it again"):
        describe_model(config(tmp_path / "cut.gguf"))


def test_a_gguf_without_one_of_its_weights_is_refused(
    tmp_path: Path, whole_gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "odd.gguf").write_bytes(whole_gguf.replace(b"blk.3.ffn_up", b"blk.3.ffn_ux"))
    with pytest.raises(
        UsageError, match=r"odd\.gguf: the checkpoint does not fit .*: it lacks model\.layers\.3\.mlp\.up"
    ):
        describe_model(config(tmp_path / "odd.gguf"))
    assert not list((tmp_path / "cache").rglob("config.json")), "nothing half-made may stay"


def rotate_more(folder: Path) -> None:
    path = folder / "config.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"rope_parameters": held["rope_parameters"] | {"rope_theta": 5e5}}))


def end_elsewhere(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')


def speak_otherwise(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")


def speak_otherwise_in_the_tokenizers_configuration(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages[0].content }}?"}))


def read_otherwise(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(
        path.read_text()
        .replace('"add_prefix_space":false', '"add_prefix_space":true')
        .replace('"add_prefix_space": false', '"add_prefix_space": true')
    )


def shift(folder: Path) -> None:
    rewrite(folder, lambda weights: weights | {"model.norm.weight": weights["model.norm.weight"] + 1})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (shift, {"weights"}),
        (rotate_more, {"configuration"}),
        (end_elsewhere, {"configuration"}),
        (speak_otherwise, {"chat template"}),
        (speak_otherwise_in_the_tokenizers_configuration, {"chat template", "tokenizer"}),
        (read_otherwise, {"tokenizer"}),
    ],
)
def test_a_model_folder_is_known_by_all_that_results_depend_on(
    tmp_path: Path, change: Callable[..., Any], parts: set[str]
) -> None:
    save_byte_model(tmp_path)
    before = describe_model(config(tmp_path))
    (tmp_path / "README.md").write_text("of no account")
    assert describe_model(config(tmp_path)) == before
    change(tmp_path)
    after = describe_model(config(tmp_path))
    assert before.digest != after.digest
    assert before.parts is not None
    assert after.parts is not None
    assert {part for part in before.parts if before.parts[part] != after.parts[part]} == parts


def test_a_copy_of_a_folder_is_the_same_model(tmp_path: Path) -> None:
    save_byte_model(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert describe_model(config(tmp_path / "one")).digest == describe_model(config(tmp_path / "other")).digest
