"""Sweeps from Python, in this process and without Ray: the same results as the command's, and one folder for both."""

import gc
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import asked_here
from driving import assert_same
from peft import LoraConfig, get_peft_model
from synthetic_sweeps import write_manifest
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import eexit
from cluster.sweep import run_job
from cluster.sweep_job import SweepJob
from eexit.output.progress import NullDisplay
from eexit.plan import model_inspection
from eexit.results.store.commit import RunCounts
from eexit.sweeps.arguments import from_python
from reports import build_report

PROMPTS = ["one <b>", {"prompt": "3 + 4?", "answer": "7"}, "x" * 300]  # the last is longer than the model reads
GRID: dict[str, Any] = {
    "rules": {"confidence": [0.05, 0.9]}, "exit_every": 2, "max_new_tokens": 8, "dtype": "float32", "seeds": range(2),
    "quiet": True,
}  # fmt: skip
NORMAL = {**GRID, "rules": {}, "modes": ["normal"]}


@pytest.fixture(scope="module")
def swept(model: str, tmp_path_factory: pytest.TempPathFactory) -> eexit.SweepResults:
    return eexit.sweep(PROMPTS, model=model, out=tmp_path_factory.mktemp("swept") / "out", **GRID)


def loaded_from(model: str | Path, **how: Any) -> dict[str, Any]:
    """A model and its tokenizer, as arguments."""
    return {
        "model": AutoModelForCausalLM.from_pretrained(model, **how),
        "tokenizer": AutoTokenizer.from_pretrained(model),
    }


def test_runs_and_tokens_are_those_of_the_plan_in_its_order_and_errors_are_rows(swept: eexit.SweepResults) -> None:
    runs, tokens = swept.runs, swept.tokens
    modes = ("unfrozen", "frozen_residual")
    keys = ["normal", *(f"{mode}/confidence/{at}" for mode in modes for at in ("0.05", "0.9"))]
    planned = [(prompt, seed, key) for prompt in "012" for seed in (0, 1) for key in keys]
    assert [*zip(runs.prompt_id, runs.seed, runs.configuration, strict=True)] == planned
    assert runs[runs.status == "error"].prompt_id.tolist() == ["2"] * 10
    assert runs.correct.notna().sum() == 10
    assert tokens.run_id.drop_duplicates().tolist() == runs[runs.status == "ok"].run_id.tolist()
    assert tokens.groupby("run_id").position.apply(lambda of: of.tolist() == [*range(len(of))]).all()


@pytest.mark.usefixtures("ray_here")
def test_command_and_call_make_the_same_and_go_on_with_each_others(
    swept: eexit.SweepResults, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    fields = {name: value for name, value in GRID.items() if name != "quiet"}
    arguments = {**fields, "model": model, "out": str(tmp_path / "out"), "rows_per_shard": 10}
    on_ray = from_python(SweepJob, PROMPTS, arguments, "the test")
    assert run_job(on_ray, NullDisplay()).tally.runs == 30
    shards = {path: pd.read_parquet(path) for path in (tmp_path / "out" / "generations").iterdir()}
    next(path for path, rows in shards.items() if "ok" in {*rows.status}).unlink()
    again = eexit.sweep(PROMPTS, model=model, out=tmp_path / "out", **GRID)
    assert_same(again.runs, swept.runs, ["run_id"])
    assert_same(again.tokens, swept.tokens, ["run_id", "position"])
    tally = run_job(on_ray, NullDisplay()).tally
    assert tally == RunCounts(10, 10, 0), "errors are tried again, and nothing else is left"


def test_a_loaded_model_does_the_same_and_stays_as_it_is(swept: eexit.SweepResults, model: str, tmp_path: Path) -> None:
    given = loaded_from(model)
    loaded = given["model"].train()
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    modules = [type(module) for module in loaded.modules()]
    given |= {name: value for name, value in GRID.items() if name != "dtype"}
    done = eexit.sweep(PROMPTS, out=tmp_path / "out", **given)
    same = ["text", "exit_layer_counts", "status", "configuration"]
    assert done.runs[same].equals(swept.runs[same])
    assert loaded.training
    assert [type(module) for module in loaded.modules()] == modules
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items())
    with torch.no_grad():
        next(loaded.parameters()).mul_(2)
    with pytest.raises(ValueError, match=r"holds results of this model before its weights changed"):
        eexit.sweep(PROMPTS, out=tmp_path / "out", **given)


def test_a_notebook_shows_texts_by_exit_layer_and_the_closing_table(swept: eexit.SweepResults) -> None:
    page = swept._repr_html_()
    exits = swept.tokens[swept.tokens.seed == 0].exit_layer
    assert page.count('<span title="layer') == len(exits)
    assert page.count('<span title="layer 6">') == (exits == 6).sum(), "the final layer has no colour"
    assert page.count('<span title="layer 2" style="background: #2c4fa3') == (exits == 2).sum() > 0
    assert "one &lt;b&gt;" in page
    assert "<b>" not in page
    assert all(page.count(f">{key}</t") == 3 for key in swept.runs.configuration.unique()), "two texts, and a line"
    assert repr(swept) == f"{swept.table}\n{swept.out}"
    assert "frozen_residual/confidence/0.05" in str(swept.table)


def test_an_unfinished_sweep_says_how_much_has_landed_wherever_it_shows_means(model: str, tmp_path: Path) -> None:
    grid = {**GRID, "seeds": [0], "rows_per_shard": 3}
    done = eexit.sweep(["one", "two", "three", "four"], model=model, out=tmp_path / "out", **grid)
    shown = (done.__repr__, done._repr_html_, lambda: str(done.table.caption))
    assert not any("Unfinished" in show() for show in shown)
    for path in (tmp_path / "out" / "generations").iterdir():
        if {*pd.read_parquet(path).prompt_id} & {"2", "3"}:
            path.unlink()
    said = "Unfinished: 10 of 20 runs are committed, of 2 of 4 prompts."
    assert all(said in " ".join(show().split()) for show in shown)


def test_a_received_manifest_of_wrong_types_is_refused_in_a_line_by_all_that_read_it(
    swept: eexit.SweepResults, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(swept.out, tmp_path / "out"))
    about = json.loads((out / "sweep.json").read_text())
    del about["checksum"]
    write_manifest(out, {**about, "configurations": 5})
    for read in (eexit.open, lambda out: build_report(str(out), tmp_path / "report.html")):
        with pytest.raises(ValueError, match=rf"{out}.* \(configurations: Input should be a valid list"):
            read(out)


def test_certainty_is_what_the_columns_of_normals_tokens_say(swept: eexit.SweepResults, model: str) -> None:
    """The two prompts have as many tokens each, so that means over tokens are those over prompts."""
    found, tokens = swept.confidence_by_depth(threshold=0.01), swept.tokens
    decided = tokens[(tokens.configuration == "normal") & tokens.decided]
    sure = pd.DataFrame([[top[0] for top in layers] for layers in decided.top_prob]) >= 0.01
    likeliest = pd.DataFrame([[top[0] for top in layers] for layers in decided.top_token_ids])
    confirmed = sure & likeliest.apply(lambda of: of == of[2], axis=1)
    assert found.layer.tolist() == [2, 4, 6]
    assert found.sure.tolist() == pytest.approx(sure.mean().tolist())
    assert found.confirmed.tolist() == pytest.approx(confirmed.mean().tolist())
    assert 0 < found.confirmed[0] < found.sure[0]
    for options in ({"record_top_k": 0}, {"record_full_depth": "final"}, {"modes": ["skip"]}):
        bare = eexit.sweep(["one"], model=model, **{**GRID, "max_new_tokens": 2, "seeds": [0], **options})
        with pytest.raises(ValueError, match="has no layer's top tokens of normal: sweep with norm"):
            bare.confidence_by_depth()


def test_without_out_results_live_as_long_as_the_object_and_its_report_longer(
    swept: eexit.SweepResults, model: str
) -> None:
    opened = eexit.open(swept.out)
    assert opened.report() == Path(swept.out, "report.html")
    assert opened.runs.equals(swept.runs)
    short = eexit.sweep(["one"], model=model, **NORMAL)
    out, report = Path(short.out), short.report()
    assert len(pd.read_parquet(out / "generations")) == 2
    del short
    gc.collect()
    assert [*out.iterdir()] == [report]
    assert "<title>Early exit" in report.read_text("utf-8")
    shutil.rmtree(out)
    shorter = eexit.sweep(["one"], model=model, **NORMAL)
    out = Path(shorter.out)
    del shorter
    gc.collect()
    assert not out.exists()


@pytest.mark.usefixtures("own_exits")
def test_rules_and_states_may_be_functions(model: str) -> None:
    @eexit.rule(parameter="probability")
    def surely(layer: Any, parameter: Any) -> Any:
        return layer.top2_prob[:, 0] >= parameter

    @eexit.mode
    def kept(exit: Any, layer: Any) -> Any:
        return exit.hidden

    asked: dict[str, Any] = {"rules": {surely: [0.05], "confidence": [0.05]}, "modes": ["frozen_residual", kept]}
    short = eexit.sweep(["one"], model=model, **{**GRID, **asked})
    texts = {key: of[["token_id", "exit_layer"]].values.tolist() for key, of in short.tokens.groupby("configuration")}
    assert len(texts) == 4
    assert all(text == texts["frozen_residual/confidence/0.05"] for text in texts.values())
    assert [(each["name"], each["source"]) for each in short.manifest.own] == [("surely", "surely"), ("kept", "kept")]


def test_rules_with_the_same_texts_in_several_modes_are_named_at_the_start(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"rules": {"fixed": [2, 4], "confidence": [0.9]}, "exit_every": 2, "max_new_tokens": 2}
    for modes, named in ((["unfrozen", "skip"], True), (["normal", "skip"], False)):
        eexit.sweep(["one"], model=model, modes=modes, **asked)
        line = "decoded once: fixed/2 in unfrozen, skip; fixed/4 in unfrozen, skip\n"
        assert (line in capsys.readouterr().err) == named


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own code
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda model: torch.compile(model, backend="eager"), " is not supported: the model is compiled"),
        (
            lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj"])),
            " is not supported: it has an adapter of peft",
        ),
        (
            lambda model: model.model.norm.register_forward_hook(lambda *given: None) and model,
            r"^the model's model.norm has a forward hook, .* put it on a layer",
        ),
    ],
    ids=["compiled", "peft", "hook"],
)
def test_a_loaded_model_whose_copy_would_be_another_is_refused(
    model: str, tmp_path: Path, change: Callable[[Any], Any], line: str
) -> None:
    given = loaded_from(model)
    with pytest.raises(ValueError, match=line):
        eexit.sweep(["one"], **{**given, "model": change(given["model"])}, out=tmp_path / "out", exit_every=2)
    assert [*tmp_path.glob("out/*")] == []


def test_a_dtype_may_be_one_of_torch(model: str) -> None:
    manifest = eexit.sweep(["one"], model=model, **{**NORMAL, "dtype": torch.float16, "max_new_tokens": 2}).manifest
    assert manifest.config["dtype"] == "float16"
    assert eexit.load_default_model_and_tokenizer(model, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_no_ray_is_imported(model: str, tmp_path: Path) -> None:
    code = (
        "import json, sys, eexit\n"
        f"sweep = eexit.sweep(['one'], model={model!r}, modes=['normal'], exit_every=2, max_new_tokens=2)\n"
        "sweep.runs, sweep.tokens, sweep._repr_html_()\n"
        "print(json.dumps([*{'ray', 'cluster', 'altair', 'reports'} & set(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == []
    assert done.stderr.splitlines()[-1].endswith("0:00 left · 0 errors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hooks_and_forwards_on_linear_modules_of_a_loaded_model_run_in_every_dtype(
    model: str, dtype: torch.dtype
) -> None:
    given, n_calls = loaded_from(model, dtype=dtype), Counter[str]()
    layers, projection = given["model"].model.layers, given["model"].model.layers[1].mlp.down_proj
    asked: Any = {**given, "rules": {"fixed": [5]}, "modes": ["normal", "unfrozen"], "max_new_tokens": 4, "quiet": True}
    before = eexit.sweep(["one"], **asked).runs.text[0]

    def scale(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        n_calls["hook"] += 1
        return 1.5 * output

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        n_calls["forward"] += 1
        return torch.roll(hidden @ projection.weight.T, 1, -1)

    for layer in layers[::2]:
        layer.mlp.up_proj.register_forward_hook(scale)
    vars(projection)["forward"] = forward
    token_1T = given["tokenizer"]("one", return_tensors="pt").input_ids
    made = given["model"].generate(token_1T, max_new_tokens=4, do_sample=False)
    n_calls.clear()
    text = eexit.sweep(["one"], **asked).runs.text[0]
    assert text == given["tokenizer"].decode(made[0, token_1T.shape[1] :]) != before
    assert n_calls["hook"] > 0 < n_calls["forward"], "of this object, not of a copy"


UNAPPLIED = {"repetition_penalty": 1.3, "suppress_tokens": [5], "do_sample": True, "temperature": 0.6}


def test_what_the_models_generation_config_sets_and_a_sweep_does_not_apply_is_named_and_kept(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({**UNAPPLIED, "pad_token_id": 0, "top_p": 1.0}))
    given = loaded_from(folder)

    def said(out: str, **more: Any) -> set[str]:
        asked: dict[str, Any] = {"rules": {"fixed": [5]}, "max_new_tokens": 2, "out": tmp_path / out}
        eexit.sweep(["one"], **{**asked, "model": str(folder), **more})
        line = " ".join(capsys.readouterr().err.split()).partition("the model's generation_config sets ")[2]
        return {*re.findall(r"(\w+)=", line)}

    assert said("out") == {*UNAPPLIED}
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["model"]["generation_config"] == UNAPPLIED
    assert said("sampled", temperature=0.6) == {"repetition_penalty", "suppress_tokens"}, "others are applied"
    assert said("loaded", **given) == {*UNAPPLIED}
    given["model"].generation_config = type(given["model"].generation_config)()
    assert said("nothing", **given) == set()


def test_an_older_object_shows_what_its_sweep_has_grown_to(model: str) -> None:
    first = eexit.sweep(["one"], model=model, **GRID)
    assert "/agree" not in first._repr_html_()
    second = eexit.sweep(["one", "two"], model=model, out=first.out, **{**GRID, "rules": {"agree": []}})
    assert first._repr_html_() == second._repr_html_()
