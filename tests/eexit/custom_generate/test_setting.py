"""Invariant 9: a setting that was packaged writes the sweep's texts, called by transformers' own `generate`."""

import copy
import gc
import hashlib
import pickle
import shutil
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from byte_model import save_tiny_gguf
from driving import look_here
from taken_settings import (
    N_TOKENS,
    TEXTS,
    Folders,
    Recorded,
    batch,
    confidence_of,
    exit_key,
    loaded,
    make,
    plain,
    run,
    swept,
    texts_of,
)
from torch import Tensor
from transformers import PreTrainedModel, TorchAoConfig
from untrained import key_maps, random_gate, save_gate, save_state_maps, stream_maps

import eexit
from eexit.custom_generate.setting import Setting
from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, KEYS, STREAMS
from eexit.model.layers import Decoder
from eexit.model.sources import DEFAULT_MODEL
from eexit.plan.sweep_config import SweepConfig
from eexit.studies.packaging.package_setting import PackageArgs, package_setting

RULES = {"confidence": [confidence_of("llama")]}


def packaged(out: Path, folder: Path, key: str) -> Setting:
    package_setting(PackageArgs(str(out), str(folder), key))
    return eexit.load(folder)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "bloom"])  # post-norms and windows; attention of its own
def test_invariant_9_the_texts_are_those_of_the_sweep(architecture: str, folders: Folders, tmp_path: Path) -> None:
    made = folders if architecture == "llama" else make(tmp_path, architecture)
    model, setting = loaded(made["model"]), eexit.load(made["exits"])
    prompts, expected = texts_of(made["sweep"], exit_key(architecture))
    assert len({len(prompt) for prompt in prompts}) > 4
    assert len({layer for _, layers in expected for layer in layers[1:]}) > 1, "some exit, and some don't"
    assert run(model, setting, prompts) == expected
    assert [run(model, setting, [prompt])[0] for prompt in prompts[::3]] == expected[::3]
    if architecture == "llama":  # that other families' weights can be packed is what invariant 3 says
        assert run(model, eexit.load(made["exits"], packed=True), prompts) == expected
    drafts = run(model, eexit.load(made["drafts"]), prompts)
    assert [token_ids for token_ids, _ in drafts[::3]] == [plain(model, prompt) for prompt in prompts[::3]]


@pytest.mark.parametrize("form", FORMS)
def test_invariant_9_holds_for_every_state(form: str, folders: Folders, model: PreTrainedModel, tmp_path: Path) -> None:
    place, rule = folders["model"], f"confidence/{confidence_of('llama'):g}"
    alone = SweepConfig.model_validate({"model": str(place), "prompts": [{"id": "0", "prompt": "Why?"}]})
    description = look_here(alone, 1)[0]
    tensors = stream_maps() if form == STREAMS else key_maps(Decoder(loaded(place)))
    maps = save_state_maps(tmp_path / "maps", tensors, description)
    gate = save_gate(tmp_path / "gate", random_gate([rule], range(6)), description)
    modes = ["mapped_residual"] if form == KEYS else ["frozen_residual", "mapped_residual", "unfrozen", "skip"]
    artefacts = {"kv_maps": str(maps), "gate": str(gate), "gate_thresholds": [0.5], "screen": "8:32"}
    out = swept(tmp_path / "sweep", place, TEXTS[:4], rules=RULES, modes=modes, **artefacts)
    settings = {mode: packaged(out, tmp_path / mode, f"{mode}/{rule}+gate0.5") for mode in modes}
    for artefact in (maps, gate):
        shutil.rmtree(artefact)
    texts: list[Any] = []
    for mode, setting in settings.items():
        prompts, expected = texts_of(out, f"{mode}/{rule}+gate0.5")
        assert len({layer for _, layers in expected for layer in layers[1:]}) > 1, "some exit, and some don't"
        assert run(model, setting, prompts) == expected
        assert [run(model, setting, [prompt])[0] for prompt in prompts] == expected
        assert (setting.package.config["kv_maps"] is None) == (mode != "mapped_residual")
        assert "gate artefacts/gate" in setting.describe()
        assert expected not in texts, "states are told apart"
        texts.append(expected)


def test_invariant_9_holds_for_a_dequantised_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny_gguf(tmp_path / "tiny.gguf")
    out = swept(tmp_path / "sweep", tmp_path / "tiny.gguf", modes=["frozen_residual"], rules=RULES)
    model = loaded(tmp_path, gguf_file="tiny.gguf")
    prompts, expected = texts_of(out, exit_key())
    assert run(model, packaged(out, tmp_path / "exits", exit_key()), prompts) == expected


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is an extra")
def test_invariant_9_holds_for_quantised_weights_and_for_no_others(folders: Folders, tmp_path: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    out = swept(tmp_path / "sweep", folders["model"], rules=RULES, modes=["frozen_residual"], quantize="int8")
    ids, others = (set(pd.read_parquet(sweep / "generations").run_id) for sweep in (out, folders["sweep"]))
    assert not ids & others
    setting, (prompts, expected) = packaged(out, tmp_path / "int8", exit_key()), texts_of(out, exit_key())
    quantised = loaded(folders["model"], quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    assert run(quantised, setting, prompts) == expected
    assert "In float32 with int8 weights on cpu, 4 of 4 texts" in setting.describe()
    assert "dtype='float32', quantize='int8')" in (tmp_path / "int8" / "README.md").read_text()
    with torch.no_grad():
        quantised.model.layers[2].mlp.up_proj.weight.scale.mul_(1.5)
    for model, other, reason in (
        (loaded(folders["model"]), setting, "was measured with int8 weights, and the model is not quantised: load it"),
        (quantised, eexit.load(folders["exits"]), r"with weights as they were, and the model is quantised \(int8\)"),
        (quantised, eexit.load(tmp_path / "int8"), "this model has other weights"),
    ):
        with pytest.raises(UsageError, match=reason):
            run(model, other, prompts[:1])


@pytest.mark.slow  # a real model in float32
def test_invariant_9_on_the_default_model(tmp_path: Path) -> None:
    texts, drafts = [f"{text} Explain recursion." for text in TEXTS], "draft/20:3"
    asked: dict[str, Any] = {"rules": {"confidence": [0.6]}, "modes": ["frozen_residual"], "draft": ["20:3"]}
    out = swept(tmp_path / "sweep", Path(DEFAULT_MODEL), texts, **{**asked, "exit_layers": (10, 20, 25)})
    model, _ = eexit.load_default_model_and_tokenizer(dtype="float32")
    for key, name in (("frozen_residual/confidence/0.6", "exits"), (drafts, "drafts")):
        setting, (prompts, expected) = packaged(out, tmp_path / name, key), texts_of(out, key)
        assert run(model, setting, prompts) == [run(model, setting, [prompt])[0] for prompt in prompts] == expected
    assert [plain(model, prompt) for prompt in prompts] == [token_ids for token_ids, _ in expected]


def test_eos_lists_end_rows_padded_as_by_generate(folders: Folders, model: PreTrainedModel, setting: Setting) -> None:
    prompts, expected = texts_of(folders["sweep"], exit_key())
    ends, its = [expected[0][0][2], expected[1][0][4]], cast(Any, model)
    asked = {"eos_token_id": ends, "pad_token_id": 5}
    output = run(model, setting, prompts, **asked, return_dict_in_generate=False)
    theirs, width = its.generate(**batch(prompts), **asked, max_new_tokens=1), batch(prompts)["input_ids"].shape[1]
    assert output[:, : width + 1].tolist() == theirs.tolist()
    assert (output.dtype, type(output)) == (theirs.dtype, Tensor)
    for row, (token_ids, _) in zip(output[:, width:].tolist(), expected, strict=True):
        n = next((at + 1 for at, token_id in enumerate(token_ids) if token_id in ends), N_TOKENS)
        assert (row[:n], {*row[n:]} <= {5}) == (token_ids[:n], True)
    assert 5 in output[0, width:].tolist()


def test_costs_and_stats_say_what_was_run(folders: Folders, model: PreTrainedModel, setting: Setting) -> None:
    prompts, expected = texts_of(folders["sweep"], exit_key())
    assert [*setting.stats.values()] == [0] * (len(setting.stats) - 2) + [{}, None]
    asked = {"custom_generate": setting, "max_new_tokens": N_TOKENS, "return_dict_in_generate": True}
    costs = cast(Any, model).generate(**batch(prompts[:3]), **asked).costs
    layers, run_layers = [layer for _, its in expected[:3] for layer in its[1:]], sum(it["layers_run"] for it in costs)
    assert sum(layer + 1 for layer in layers) <= run_layers <= 7 * len(layers)
    assert all(0 < cost["macs_required"] <= cost["macs_executed"] for cost in costs)
    counted = {"sequences": 3, "tokens": 3 * N_TOKENS, "layers_run": run_layers, "exits": Counter(layers)}
    assert setting.stats == setting.stats | counted
    full, done = (sum(cost[name] for cost in costs) for name in ("macs_full", "macs_executed"))
    assert setting.stats["saved"] == pytest.approx(1 - done / full, abs=1e-6)


def test_sampling_is_repeated_by_a_seed_as_in_the_sweep(
    model: PreTrainedModel, setting: Setting, folders: Folders, prompts: list[list[int]], tmp_path: Path
) -> None:
    sampled = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 0}

    def texts(seed: int | None = None) -> Any:
        if seed is not None:
            torch.manual_seed(seed)
        return run(model, setting, prompts[:2], **sampled)

    with pytest.raises(UsageError, match=r"drafts are greedy, and temperature is 1\.5"):
        run(model, eexit.load(folders["drafts"]), prompts[:2], **sampled)
    first = texts(3)
    assert first not in (texts(), texts(4))
    assert texts(3) == first
    assert len({tuple(ids) for ids, _ in run(model, setting, prompts[:1] * 4, **sampled)}) > 1
    one, again, both = (
        run(model, setting, given, seed=5, **sampled) for given in (prompts[:2],) * 2 + (prompts[:1] * 2,)
    )
    assert (one, one[:1] * 2) == (again, both)
    key = "unfrozen/confidence/0.2"  # of a sweep with two seeds
    sampling: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}
    of: dict[str, Any] = {"rules": {"confidence": [0.2]}, "modes": ["unfrozen"], "seeds": [4, 5], **sampling}
    out = swept(tmp_path / "sweep", folders["model"], **of)
    swept_texts = packaged(out, tmp_path / "sampled", key), texts_of(out, key, 5)[0]
    assert run(model, *swept_texts, seed=5, do_sample=True, top_k=0, **sampling) == texts_of(out, key, 5)[1]


def looks(model: PreTrainedModel) -> dict[str, Any]:
    """Everything of a model that could be changed, weights by where they are and what they hold."""
    weights, kinds = [*model.parameters()], ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    configs: tuple[Any, ...] = (model.config, model.generation_config)
    return {
        "weights": [(each.data_ptr(), each._version, each.requires_grad) for each in weights],
        "numbers": hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in weights)).hexdigest(),
        "modules": [(id(of), [(own, id(it)) for own, it in vars(of).items()]) for of in model.modules()],
        "hooks": [[*getattr(module, kind)] for module in model.modules() for kind in kinds],
        "configs": [config.to_json_string(use_diff=False) for config in configs],
        "attention": model.config._attn_implementation,
    }


@pytest.mark.parametrize("packed", [False, True])
def test_the_users_model_stays_as_it_was(folders: Folders, prompts: list[list[int]], packed: bool) -> None:
    model, during = loaded(folders["model"]), list[dict[str, Any]]()
    text = plain(model, prompts[0])
    model.get_submodule("model.layers.2").register_forward_hook(lambda *_: during.append(looks(model)))

    class Failing(Recorded):
        def put(self, value: Tensor) -> None:
            super().put(value)
            if len(self.put_tokens) > 2:
                raise KeyboardInterrupt

    before, setting = looks(model), eexit.load(folders["exits"], packed)
    run(model, setting, prompts[:1])
    with pytest.raises(KeyboardInterrupt):
        run(model, setting, prompts[:1], streamer=Failing())
    assert all(each == before for each in [*during, looks(model)])
    assert len(during) > N_TOKENS
    assert plain(model, prompts[0]) == text


def test_models_are_not_copied_and_settings_can_be(folders: Folders, drafts: Setting, prompt: list[int]) -> None:
    model = loaded(folders["model"])
    whole = plain(model, prompt, custom_generate=drafts)
    for copied in (copy.deepcopy(drafts), pickle.loads(pickle.dumps(drafts))):
        assert (copied.stats, plain(model, prompt, custom_generate=copied)) == (drafts.stats, whole)
        assert copied.stats["sequences"] == 2
    assert drafts.stats["sequences"] == 1
    del copied
    first = model.get_submodule("model.layers.0")
    held = [each for each in gc.get_objects() if isinstance(each, Decoder) and each.layers[0] is first]
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(each) for decoder in held for each in decoder.model.parameters()} == own
    seen = weakref.ref(model)
    del model, first, held
    gc.collect()
    assert seen() is None


def test_threads_that_share_a_model_get_what_each_gets_alone(folders: Folders, prompts: list[list[int]]) -> None:
    """Settings look at the model when they are first used, here all at once."""

    def tasks(model: PreTrainedModel) -> list[Callable[[], Any]]:
        exits, drafts = eexit.load(folders["exits"]), eexit.load(folders["drafts"])
        return [
            lambda: [plain(model, max(prompts, key=len)) for _ in range(4)],
            *[lambda setting=setting: run(model, setting, prompts) for setting in (exits, exits, drafts)],
        ]

    alone = [task() for task in tasks(loaded(folders["model"]))]
    with ThreadPoolExecutor(4) as threads:
        together = [threads.submit(task) for task in tasks(loaded(folders["model"]))]
    assert [each.result() for each in together] == alone
