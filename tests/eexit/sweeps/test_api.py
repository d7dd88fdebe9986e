"""Sweeps from Python, in this process and without Ray: the same results as the command's, and one folder for both."""

import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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
}  # fmt: skip


@pytest.fixture(scope="module")
def swept(model: str, tmp_path_factory: pytest.TempPathFactory) -> eexit.SweepResults:
    return eexit.sweep(PROMPTS, model=model, out=tmp_path_factory.mktemp("swept") / "out", quiet=True, **GRID)


def on_ray(out: str | Path, model: str) -> RunCounts:
    """What the command does with the same flags."""
    arguments = {**GRID, "model": model, "out": str(out), "rows_per_shard": 10}
    return run_job(from_python(SweepJob, PROMPTS, arguments, "the test"), NullDisplay()).tally


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
    assert on_ray(tmp_path / "out", model).runs == 30
    shards = {path: pd.read_parquet(path) for path in (tmp_path / "out" / "generations").iterdir()}
    lost = next(path for path, rows in shards.items() if "ok" in {*rows.status})
    lost.unlink()
    again = eexit.sweep(PROMPTS, model=model, out=tmp_path / "out", quiet=True, **GRID)
    assert_same(again.runs, swept.runs, ["run_id"])
    assert_same(again.tokens, swept.tokens, ["run_id", "position"])
    assert len(shards[lost]) == 10
    assert on_ray(tmp_path / "out", model) == RunCounts(10, 10, 0), "errors are tried again, and nothing else is left"


def test_a_loaded_model_does_the_same_and_stays_as_it_is(swept: eexit.SweepResults, model: str, tmp_path: Path) -> None:
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    loaded.train()
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    modules = [type(module) for module in loaded.modules()]
    grid = {name: value for name, value in GRID.items() if name != "dtype"}

    def run(out: Path) -> eexit.SweepResults:
        return eexit.sweep(PROMPTS, model=loaded, tokenizer=tokenizer, out=out, quiet=True, **grid)

    done = run(tmp_path / "out")
    same = ["text", "exit_layer_counts", "status", "configuration"]
    assert done.runs[same].equals(swept.runs[same])
    assert loaded.training
    assert [type(module) for module in loaded.modules()] == modules
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items())
    with torch.no_grad():
        next(loaded.parameters()).mul_(2)
    with pytest.raises(ValueError, match=r"holds results of this model before its weights changed"):
        run(tmp_path / "out")


def test_a_notebook_shows_texts_by_exit_layer_and_the_closing_table(swept: eexit.SweepResults) -> None:
    page = swept._repr_html_()
    of_seed = swept.tokens[swept.tokens.seed == 0]
    assert page.count('<span title="layer') == len(of_seed)
    assert page.count('<span title="layer 6">') == (of_seed.exit_layer == 6).sum(), "the final layer has no colour"
    assert page.count('<span title="layer 2" style="background: #2c4fa3') == (of_seed.exit_layer == 2).sum() > 0
    assert "one &lt;b&gt;" in page
    assert "<b>" not in page
    assert all(page.count(f">{key}</t") == 3 for key in swept.runs.configuration.unique()), "two texts, and a line"
    assert repr(swept) == f"{swept.table}\n{swept.out}"
    assert "frozen_residual/confidence/0.05" in str(swept.table)


def test_an_unfinished_sweep_says_how_much_has_landed_wherever_it_shows_means(model: str, tmp_path: Path) -> None:
    grid = {**GRID, "seeds": [0], "rows_per_shard": 3}
    done = eexit.sweep(["one", "two", "three", "four"], model=model, quiet=True, out=tmp_path / "out", **grid)
    shown: dict[str, Callable[[], str]] = {
        "repr": lambda: repr(done), "page": done._repr_html_, "table": lambda: str(done.table.caption)
    }  # fmt: skip
    assert not any("Unfinished" in show() for show in shown.values())
    for path in (tmp_path / "out" / "generations").iterdir():
        if {*pd.read_parquet(path).prompt_id} & {"2", "3"}:
            path.unlink()
    said = "Unfinished: 10 of 20 runs have landed, of 2 of 4 prompts. Means are over these runs."
    for name, show in shown.items():
        assert said in " ".join(show().split()), name


def test_a_received_manifest_of_wrong_types_is_refused_in_a_line_by_all_that_read_it(
    swept: eexit.SweepResults, model: str, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(swept.out, tmp_path / "out"))
    about = json.loads((out / "sweep.json").read_text())
    del about["checksum"]
    for changed, says in (
        ({"configurations": 5}, "configurations: Input should be a valid list"),
        ({"model": {**about["model"], "name": "tiny\x1b[31m"}}, "model.name: String should match pattern"),
    ):
        write_manifest(out, {**about, **changed})
        for read in (eexit.open, lambda out: build_report(str(out), tmp_path / "report.html")):
            with pytest.raises(ValueError, match=rf"{out}.* \({re.escape(says)}.*\)$"):
                read(out)
    again = eexit.sweep(PROMPTS, model=model, quiet=True, out=out, **GRID)  # all runs are its own
    assert again.manifest.configurations == swept.manifest.configurations


def test_the_report_is_beside_the_results_which_can_be_opened(swept: eexit.SweepResults) -> None:
    opened = eexit.open(swept.out)
    assert opened.report() == Path(swept.out, "report.html")
    assert opened.runs.equals(swept.runs)


def test_certainty_is_what_the_columns_of_normals_tokens_say(swept: eexit.SweepResults, model: str) -> None:
    """The two prompts have as many tokens each, so that means over tokens are those over prompts."""
    found, tokens = swept.confidence_by_depth(threshold=0.01), swept.tokens
    decided = tokens[(tokens.configuration == "normal") & tokens.decided]
    p = [[top[0] for top in layers] for layers in decided.top_prob]
    likeliest = [[top[0] for top in layers] for layers in decided.top_token_ids]
    sure = pd.DataFrame(p, columns=[2, 4, 6]) >= 0.01
    confirmed = sure & pd.DataFrame(likeliest, columns=[2, 4, 6]).apply(lambda of: of == of[6], axis=1)
    assert found.layer.tolist() == [2, 4, 6]
    assert found.sure.tolist() == pytest.approx(sure.mean().tolist())
    assert found.confirmed.tolist() == pytest.approx(confirmed.mean().tolist())
    assert 0 < found.confirmed[0] < found.sure[0]
    for options in ({"record_top_k": 0}, {"record_full_depth": "final"}, {"modes": ["skip"]}):
        bare = eexit.sweep(["one"], model=model, quiet=True, **{**GRID, "max_new_tokens": 2, "seeds": [0], **options})
        with pytest.raises(ValueError, match="has no layer's top tokens of normal: sweep with norm"):
            bare.confidence_by_depth()


def test_without_out_results_live_as_long_as_the_object(model: str) -> None:
    short = eexit.sweep(["one"], model=model, modes=["normal"], quiet=True, **{**GRID, "rules": {}})
    out = Path(short.out)
    assert len(pd.read_parquet(out / "generations")) == 2
    del short
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
    short = eexit.sweep(["one"], model=model, quiet=True, **{**GRID, **asked})
    texts = {key: of[["token_id", "exit_layer"]].values.tolist() for key, of in short.tokens.groupby("configuration")}
    assert len(texts) == 4
    assert all(text == texts["frozen_residual/confidence/0.05"] for text in texts.values())
    assert [(each["name"], each["source"]) for each in short.manifest.own] == [("surely", "surely"), ("kept", "kept")]


def test_rules_with_the_same_texts_in_several_modes_are_named_at_the_start(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*modes: str) -> str:
        asked: dict[str, Any] = {"rules": {"fixed": [2, 4], "confidence": [0.9]}, "exit_every": 2, "max_new_tokens": 2}
        eexit.sweep(["one"], model=model, modes=modes, out=tmp_path / "_".join(modes), **asked)
        return capsys.readouterr().err

    line = "all tokens exit at one layer, so that these have the same texts, decoded once: "
    assert f"{line}fixed/2 in unfrozen, skip; fixed/4 in unfrozen, skip\n" in said("unfrozen", "skip")
    assert line not in said("normal", "skip")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own code
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda model: model.compile(backend="eager") or model, "the model is compiled"),
        (lambda model: torch.compile(model, backend="eager"), "the model is compiled"),
        (lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj"])), "it has an adapter of peft"),
        (lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj"])).model, "it has an adapter of peft"),
    ],
    ids=["compile", "torch.compile", "PeftModel", "its model"],
)
def test_a_loaded_model_whose_copy_would_be_another_is_refused(
    model: str, tmp_path: Path, change: Callable[[Any], Any], line: str
) -> None:
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    with pytest.raises(ValueError, match=f" is not supported: {line}"):
        eexit.sweep(["one"], model=change(loaded), tokenizer=tokenizer, out=tmp_path / "out", quiet=True, exit_every=2)
    assert not (tmp_path / "out").exists()


def test_what_other_calls_can_not_use_is_a_value_error_of_one_line(swept: eexit.SweepResults) -> None:
    def named(layer: Any) -> Any: ...

    any_value: Any = 5
    refused: dict[str, Callable[[], object]] = {
        "results must be a path, as text or a Path, got 5": lambda: eexit.open(any_value),
        "folder must be a path, as text or a Path, got 5": lambda: eexit.load(any_value),
        "sure must be a probability above 0, such as 0.9, got 'a'": lambda: swept.confidence_by_depth("a"),  # type: ignore[arg-type]
        "a rule is made of a function that has a name, as def gives it one, got 5": lambda: eexit.rule(any_value),
        "a mode is made of a function that has a name, as def gives it one, got 5": lambda: eexit.mode(any_value),
        f"a rule is made of a function that has a name, as def gives it one, got {(wrapped := partial(named))}": (
            lambda: eexit.rule()(wrapped)
        ),
        "rule named: needs are of hidden, hidden_history, probe, distribution, history, logits, final, got 'head'": (
            lambda: eexit.rule(needs=["logits", "head"])(named)
        ),
        "unknown dtype 'float31': did you mean float32 or float16? (dtype in load_default_model_and_tokenizer)": (
            lambda: eexit.load_default_model_and_tokenizer(dtype="float31")
        ),
    }
    for line, call in refused.items():
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call()
        assert str(raised.value) == line


def test_a_dtype_may_be_one_of_torch(model: str) -> None:
    grid: dict[str, Any] = {**GRID, "rules": {}, "modes": ["normal"], "dtype": torch.float16, "max_new_tokens": 2}
    assert eexit.sweep(["one"], model=model, quiet=True, **grid).manifest.config["dtype"] == "float16"
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


class Steering:
    """What a user hooks to a model: it scales what linear modules give, and counts its calls."""

    def __init__(self) -> None:
        self.n_hooked = self.n_forward = 0

    def scale(self, module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        self.n_hooked += 1
        return 1.5 * output

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.n_forward += 1
        return torch.roll(hidden @ self.weight.T, 1, -1)

    def put_on(self, model: Any) -> None:
        for layer in model.model.layers[::2]:
            layer.mlp.up_proj.register_forward_hook(self.scale)
        self.weight = model.model.layers[1].mlp.down_proj.weight
        vars(model.model.layers[1].mlp.down_proj)["forward"] = self.forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hooks_and_forwards_on_linear_modules_of_a_loaded_model_run_in_every_dtype(
    model: str, dtype: torch.dtype
) -> None:
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model, dtype=dtype), AutoTokenizer.from_pretrained(model)
    asked: Any = {"model": loaded, "tokenizer": tokenizer, "rules": {"fixed": [5]}, "max_new_tokens": 4, "quiet": True}
    [before, _] = eexit.sweep(["one"], **asked, modes=["normal", "unfrozen"]).runs.text
    steering = Steering()
    steering.put_on(loaded)
    token_1T = tokenizer("one", return_tensors="pt").input_ids
    expected = tokenizer.decode(loaded.generate(token_1T, max_new_tokens=4, do_sample=False)[0, token_1T.shape[1] :])
    steering.n_hooked = steering.n_forward = 0
    [text, _] = eexit.sweep(["one"], **asked, modes=["normal", "unfrozen"]).runs.text
    assert text == expected != before
    assert min(steering.n_hooked, steering.n_forward) > 0, "of this object, not of a copy"


def test_a_loaded_model_with_a_hook_outside_of_its_layers_is_refused(model: str) -> None:
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    loaded.model.norm.register_forward_hook(Steering().scale)
    with pytest.raises(ValueError, match=r"^the model's model.norm has a forward hook, .* put it on a layer"):
        eexit.sweep(["one"], model=loaded, tokenizer=tokenizer, rules={"fixed": [5]}, max_new_tokens=4, quiet=True)


UNAPPLIED: dict[str, Any] = {
    "repetition_penalty": 1.3, "suppress_tokens": [5], "no_repeat_ngram_size": 2, "forced_eos_token_id": 7,
    "min_new_tokens": 3, "do_sample": True, "temperature": 0.6, "stop_strings": ["x"],
}  # fmt: skip


def test_what_the_models_generation_config_sets_and_a_sweep_does_not_apply_is_named_and_kept(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text(json.dumps({**UNAPPLIED, "pad_token_id": 0, "top_p": 1.0}))
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked: dict[str, Any] = {"rules": {"fixed": [5]}, "max_new_tokens": 2, "out": tmp_path / "out"}

    def said(**more: Any) -> str:
        eexit.sweep(["one"], **asked | {"model": str(folder)} | more)
        return " ".join(capsys.readouterr().err.split())

    line = "the model's generation_config sets "
    first = said()
    assert first.count(line) == 1
    assert all(f"{name}=" in first for name in UNAPPLIED)
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["model"]["generation_config"] == UNAPPLIED
    sampled = said(temperature=0.6, out=tmp_path / "sampled")
    assert "repetition_penalty=1.3" in sampled
    assert "do_sample" not in sampled, "it is applied"
    assert "temperature" not in sampled.partition(line)[2]
    assert line in said(model=loaded, tokenizer=tokenizer, out=tmp_path / "loaded")
    loaded.generation_config = type(loaded.generation_config)()
    assert line not in said(model=loaded, tokenizer=tokenizer, out=tmp_path / "nothing")


def test_a_report_without_out_stays_where_report_says(model: str) -> None:
    report = eexit.sweep(["one"], model=model, modes=["normal"], quiet=True, **{**GRID, "rules": {}}).report()
    gc.collect()
    assert "<title>Early exit" in report.read_text("utf-8")
    assert [*report.parent.iterdir()] == [report]
    shutil.rmtree(report.parent)


def test_an_older_object_shows_what_its_sweep_has_grown_to(model: str) -> None:
    first = eexit.sweep(["one"], model=model, quiet=True, **GRID)
    assert "/agree" not in first._repr_html_()
    second = eexit.sweep(["one", "two"], model=model, quiet=True, out=first.out, **{**GRID, "rules": {"agree": []}})
    assert first._repr_html_() == second._repr_html_()
