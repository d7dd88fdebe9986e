"""A damaged checkpoint is refused before any run, in one line; a whole one is loaded as it was saved."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import configuring, losing, rewriting, save_byte_model, save_family, save_tiny_gguf, sweep_of
from references import decoder_of, shared_model
from tiny_models import ARCHITECTURES, GROUPED, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from eexit.errors import UsageError
from eexit.model.loading import load_model_and_tokenizer
from eexit.plan.model_description import describe_model, estimate_memory

Change = Callable[[Path], object]


def adding(**weights: torch.Tensor) -> Change:
    return rewriting(lambda whole: whole | {name.replace("__", "."): weight for name, weight in weights.items()})


def lose_the_vocabulary(folder: Path) -> None:
    """Save a Qwen2, for which transformers then makes a tokenizer with one control token."""
    save_family(folder, "qwen2")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')


def lose_an_expert(folder: Path) -> None:
    AutoModelForCausalLM.from_config(MixtralConfig(**GROUPED, num_local_experts=4)).save_pretrained(folder)
    losing("layers.2.block_sparse_moe.experts.1")(folder)


MISFIT = r": the checkpoint does not fit its config\.json: "
NO_TOKENIZER = r" has no tokenizer that can be loaded: see that tokenizer\.json and tokenizer_config\.json are .*"
DAMAGES: list[tuple[Change, str]] = [
    (
        losing(".layers.3."),
        MISFIT + r"it lacks model.layers.3.input_layernorm.weight and 8 more\. The weights would be random .*",
    ),
    (
        rewriting(lambda weights: {f"policy.{name}": weight for name, weight in weights.items()}),
        MISFIT + "it lacks lm_head.weight and 65 more; it has policy.lm_head.weight and 65 more that .* no use for.*",
    ),
    (
        rewriting(lambda whole: whole | {n.replace(".6.", ".7."): w.clone() for n, w in whole.items() if ".6." in n}),
        MISFIT + "it has model.layers.7.input_layernorm.weight and 8 more that the architecture has no use for.*",
    ),
    (adding(model__embed_tokens__weight=torch.zeros(200, 32)), rf"{MISFIT}.*weight is 200 × 32 where .* 256 × 32\. .*"),
    (lose_an_expert, r".*layers\.2\.mlp\.experts\.down_proj is 3 × 32 × 64 where .* 4 × 32 × 64.*"),
    (lambda folder: os.truncate(folder / "model.safetensors", 5000), r": model\.safetensors is cut off .*: get it .*"),
    (configuring(num_attention_heads="four"), r" can't be loaded: .*expected int, got str \(value: 'four'\)"),
    (configuring(hidden_act="nothing"), " can't be loaded: KeyError: 'nothing'"),
    (configuring(architectures=3), r": architectures in config\.json must be a list, got 3"),
    (lambda folder: [*map(Path.unlink, folder.glob("tokenizer*"))], NO_TOKENIZER),
    (lose_the_vocabulary, NO_TOKENIZER),
]


@pytest.mark.parametrize("look", [describe_model, load_model_and_tokenizer])
@pytest.mark.parametrize(("damage", "line"), DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, look: Callable[..., Any], damage: Change, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    save_byte_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError) as raised:
        look(sweep_of(tmp_path))
    assert re.fullmatch(rf"model {re.escape(str(tmp_path))}{line}", str(raised.value))
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_of_every_family_are_loaded_and_their_cache_estimated(tmp_path: Path, architecture: str) -> None:
    saved = shared_model(architecture)
    save_byte_model(tmp_path)
    tiny_model(architecture).save_pretrained(tmp_path)
    describe_model(sweep_of(tmp_path))
    _, token_bytes, *_ = estimate_memory(sweep_of(tmp_path))
    model, _ = load_model_and_tokenizer(sweep_of(tmp_path), "cpu")
    assert type(model) is type(saved)
    torch.testing.assert_close(model.state_dict(), saved.state_dict(), rtol=0, atol=0)
    assert token_bytes == 2 * decoder_of(saved).cache_bytes_per_token


def test_a_tied_weight_may_be_there_once_or_twice_and_masks_of_old_checkpoints_are_no_weights(tmp_path: Path) -> None:
    save_byte_model(tmp_path)
    tied = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path)
    embedding = tied.get_input_embeddings().weight.detach()
    names = "model.embed_tokens.weight", "lm_head.weight"
    for kept in (names[:1], names[1:], names):
        rewriting(lambda weights: {name: each for name, each in weights.items() if name not in names})(tmp_path)
        adding(**{name.replace(".", "__"): embedding.clone() for name in kept})(tmp_path)
        describe_model(sweep_of(tmp_path))
        model, _ = load_model_and_tokenizer(sweep_of(tmp_path), "cpu")
        assert torch.equal(model.get_output_embeddings().weight, embedding)
    tiny_model("gpt2").save_pretrained(tmp_path)
    masks = {"attn__bias": torch.ones(1, 1, 64, 64), "attn__masked_bias": torch.ones(1)}
    adding(**{f"transformer__h__0__{name}": mask for name, mask in masks.items()})(tmp_path)
    describe_model(sweep_of(tmp_path))
    load_model_and_tokenizer(sweep_of(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("numbers", "dtype", "line"),
    [
        ([float("nan"), float("inf")], "float32", "2 of the 32 .*model.norm.weight are NaN or infinite in float32"),
        ([1e6], "float32", ""),
        ([1e6], "float16", r"1 of the 32 .*model\.norm\.weight are NaN or infinite in float16: .* try another --dtype"),
    ],
)
def test_weights_not_finite_in_the_dtype_are_named(tmp_path: Path, numbers: list[float], dtype: str, line: str) -> None:
    save_byte_model(tmp_path)
    adding(model__norm__weight=torch.tensor([*numbers, *[1.0] * (32 - len(numbers))]))(tmp_path)
    with pytest.raises(UsageError, match=line) if line else nullcontext():
        load_model_and_tokenizer(sweep_of(tmp_path, dtype=dtype), "cpu")


def test_a_gguf_that_is_cut_off_or_lacks_a_weight_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "odd.gguf"
    save_tiny_gguf(path)
    whole = path.read_bytes()
    line = r" is not a whole GGUF file \(.*\): get it again"
    cut_off = [(whole[:length], line) for length in (4, 10, 500, 5000, 200_000, -10)]
    without = whole.replace(b"blk.3.ffn_up", b"blk.3.ffn_ux"), r": .* lacks model\.layers\.3\.mlp\.up"
    for content, line in (*cut_off, without):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=rf"odd\.gguf{line}"):
            describe_model(sweep_of(path))
        assert not list((tmp_path / "cache").rglob("config.json")), "nothing half-made may stay"


def split_otherwise(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(re.sub(r'("add_prefix_space": ?)false', r"\1true", path.read_text()))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (adding(model__norm__weight=torch.full((32,), 2.0)), {"weights"}),
        (configuring(rope_parameters={"rope_type": "default", "rope_theta": 5e5}), {"configuration"}),
        (configuring("generation_config.json", eos_token_id=7), {"configuration"}),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!"), {"chat template"}),
        (configuring("tokenizer_config.json", chat_template="{{ messages }}"), {"chat template", "tokenizer"}),
        (split_otherwise, {"tokenizer"}),
    ],
)
def test_a_folder_is_identified_by_all_that_results_depend_on(tmp_path: Path, change: Change, parts: set[str]) -> None:
    folder, copy = tmp_path / "model", tmp_path / "copy"
    save_byte_model(folder)
    shutil.copytree(folder, copy)
    before = describe_model(sweep_of(folder))
    (copy / "README.md").write_text("of no account")
    assert describe_model(sweep_of(copy)).digest == before.digest
    change(folder)
    after = describe_model(sweep_of(folder))
    assert before.digest != after.digest
    assert {part for part, _ in (before.parts or {}).items() ^ (after.parts or {}).items()} == parts
