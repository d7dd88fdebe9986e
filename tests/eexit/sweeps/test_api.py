"""Sweeps from Python, in this process and without Ray: the same results as the command's, and one folder for both."""

import gc
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import asked_here
from driving import assert_same
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import eexit
from cluster.sweep import run_job
from cluster.sweep_job import SweepJob
from eexit.output.progress import NullDisplay
from eexit.plan import model_inspection
from eexit.results.store.commit import RunCounts
from eexit.sweeps.arguments import from_python

PROMPTS = [  # the last is longer than the model reads
    "one <b>", {"prompt": "3 + 4?", "answer": "7", "kind": "sum", "group": "a", "steps": 2}, "x" * 300,
]  # fmt: skip
GRID: dict[str, Any] = {
    "rules": {"confidence": [0.05, 0.9]}, "exit_every": 2, "max_new_tokens": 8, "dtype": torch.float32,
    "seeds": range(2), "quiet": True,
}  # fmt: skip
NORMAL = {**GRID, "rules": {}, "modes": ["normal"]}


@pytest.fixture(scope="module")
def swept(model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return eexit.sweep(PROMPTS, model=model, out=tmp_path_factory.mktemp("swept") / "out", **GRID)


def loaded_from(model: str | Path, **how: Any) -> dict[str, Any]:
    loaded = AutoModelForCausalLM.from_pretrained(model, **how)
    return {"model": loaded, "tokenizer": AutoTokenizer.from_pretrained(model)}


def test_public_names_and_runs_and_tokens_in_the_order_of_the_plan_with_errors_as_rows(swept: Any) -> None:
    assert dir(eexit) == sorted([*eexit.__all__, "open"])
    assert all(hasattr(eexit, name) for name in dir(eexit))
    runs, tokens = swept.runs, swept.tokens
    rules = [f"{mode}/confidence" for mode in ("unfrozen", "frozen_residual")]
    keys = ["normal", *(f"{rule}/{at}" for rule in rules for at in ("0.05", "0.9"))]
    planned = [(prompt, seed, key) for prompt in "012" for seed in (0, 1) for key in keys]
    assert [*zip(runs.prompt_id, runs.seed, runs.configuration, strict=True)] == planned
    assert runs[runs.status == "error"].prompt_id.tolist() == ["2"] * 10
    assert tokens.run_id.drop_duplicates().tolist() == runs[runs.status == "ok"].run_id.tolist()
    assert tokens.groupby("run_id").position.apply(lambda of: of.tolist() == [*range(len(of))]).all()


def test_runs_have_what_the_prompt_brought_and_kinds_are_compared_with_normal(swept: Any, model: str) -> None:
    brought = {"kind": "sum", "group": "a", "steps": 2}
    for runs in (swept.runs, pd.read_parquet(Path(swept.out) / "generations")):
        is_sum = runs.prompt_id == "1"
        assert runs[is_sum][[*brought]].drop_duplicates().to_dict("records") == [brought]
        assert runs[~is_sum][["correct", *brought]].isna().all(axis=None)
    found = swept.by_kind()
    assert [*zip(found.configuration, found.kind, strict=True)] == [(each.key, "sum") for each in swept.configurations]
    assert {*found.accuracy_n} == {1}
    with pytest.raises(ValueError, match=r"^no prompt of .* has kind: give prompts a field kind$"):
        eexit.sweep(["one"], model=model, **{**NORMAL, "max_new_tokens": 2}).by_kind()


@pytest.mark.usefixtures("ray_here")
def test_command_and_call_share_a_folder(swept: Any, model: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    fields = {**GRID, "model": model, "out": str(tmp_path / "out"), "rows_per_shard": 10}
    del fields["quiet"]
    on_ray = from_python(SweepJob, PROMPTS, fields, "the test")
    assert run_job(on_ray, NullDisplay()).tally.runs == 30
    shards = {path: pd.read_parquet(path) for path in (tmp_path / "out" / "generations").iterdir()}
    next(path for path, rows in shards.items() if "ok" in {*rows.status}).unlink()
    again = eexit.sweep(PROMPTS, model=model, out=tmp_path / "out", **GRID)
    assert_same(again.runs, swept.runs, ["run_id"])
    assert_same(again.tokens, swept.tokens, ["run_id", "position"])
    assert run_job(on_ray, NullDisplay()).tally == RunCounts(10, 10, 0), "errors alone are tried again"


def test_a_loaded_model_does_the_same_and_stays_as_it_is(swept: eexit.SweepResults, model: str, tmp_path: Path) -> None:
    given = loaded_from(model) | {name: value for name, value in GRID.items() if name != "dtype"}
    loaded = given["model"].train()
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    modules = [type(module) for module in loaded.modules()]
    same = ["text", "exit_layer_counts", "status", "configuration"]
    assert eexit.sweep(PROMPTS, out=tmp_path / "out", **given).runs[same].equals(swept.runs[same])
    assert loaded.training
    assert [type(module) for module in loaded.modules()] == modules
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items())
    assert swept.manifest.config["dtype"] == "float32", "as dtype=torch.float32 was given"
    assert eexit.load_default_model_and_tokenizer(model, dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    next(loaded.parameters()).data.mul_(2)
    with pytest.raises(ValueError, match=r"holds results of this model before its weights changed"):
        eexit.sweep(PROMPTS, out=tmp_path / "out", **given)


def test_a_notebook_shows_texts_by_exit_layer_and_the_closing_table(swept: eexit.SweepResults) -> None:
    page, exits = swept._repr_html_(), swept.tokens.query("seed == 0").exit_layer
    for span, n in (
        ("", len(exits)), (' 6">', (exits == 6).sum()), (' 2" style="background: #2c4fa3', (exits == 2).sum()),
    ):  # fmt: skip
        assert page.count(f'<span title="layer{span}') == n > 0, "the final layer has no colour"
    assert "one &lt;b&gt;" in page
    assert "<b>" not in page
    assert all(page.count(f">{key}</t") == 3 for key in swept.runs.configuration.unique()), "two texts, and a line"
    assert repr(swept) == f"{swept.table}\n{swept.out}"
    assert "frozen_residual/confidence/0.05" in str(swept.table)


def test_an_unfinished_sweep_says_so(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {**GRID, "seeds": [0], "rows_per_shard": 3}
    done = eexit.sweep(["one", "two", "three", "four"], model=model, out=tmp_path / "out", **grid)
    assert "Unfinished" not in f"{done!r} {done._repr_html_()}"
    for path in (tmp_path / "out" / "generations").iterdir():
        if {*pd.read_parquet(path).prompt_id} & {"2", "3"}:
            path.unlink()
    for shown in (repr(done), done._repr_html_(), str(done.table.caption)):
        assert "Unfinished: 10 of 20 runs are committed, of 2 of 4 prompts." in " ".join(shown.split())
    assert capsys.readouterr().err == ""
    eexit.open(tmp_path / "out")
    assert capsys.readouterr().err == f"{tmp_path / 'out'} is unfinished: it has 10 of 20 runs\n"


def test_certainty_needs_the_top_tokens_of_normal(swept: eexit.SweepResults, model: str) -> None:
    """Values are tested by hand in `summary/test_certainty.py`."""
    found = swept.confidence_by_depth(threshold=0.01).query("kind == 'all prompts'")
    assert (found.layer.tolist(), {*found.threshold}) == ([2, 4, 6], {0.01})
    assert 0 < found.confirmed[0] < found.sure[0]
    for options in ({"record_top_k": 0}, {"record_full_depth": "final"}, {"modes": ["skip"]}):
        bare = eexit.sweep(["one"], model=model, **{**GRID, "max_new_tokens": 2, "seeds": [0], **options})
        with pytest.raises(ValueError, match="has no layer's top tokens of normal: sweep with norm"):
            bare.confidence_by_depth()


def test_several_models_have_a_folder_and_results_each(model: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    grid: dict[str, Any] = {"quiet": True, "exit_every": 2, "rules": {"fixed": [2]}, "max_new_tokens": 2}
    one, two = eexit.sweep(iter(["one", "two"]), model=[model, other], out=tmp_path / "out", dtype="float32", **grid)
    assert [Path(each.out) for each in (one, two)] == [tmp_path / "out" / name for name in (Path(model).name, "other")]
    assert [each.manifest.model["name"] for each in (one, two)] == [model, str(other)]
    given = loaded_from(model)
    lists: dict[str, Any] = {name: [value] for name, value in given.items()}
    [again] = eexit.sweep(["one", "two"], **lists, **grid)
    assert again.runs.text.tolist() == one.runs.text.tolist() == two.runs.text.tolist()
    refused: dict[str, dict[str, Any]] = {
        "model is an empty list": {"model": []},
        f"two models would have the folder {Path(model).name} of out": {"model": [model, model], "out": tmp_path / "b"},
        "tokenizer must be a list of 2, one for each model": {**given, "model": [model, given["model"]]},
        "model must be a name, a path or a model of transformers, got '5'": {"model": [model, 5]},
    }
    for line, asked in refused.items():
        with pytest.raises(ValueError, match=line):
            eexit.sweep(["one"], **{**grid, **asked})
    assert not (tmp_path / "b").exists(), "the first model does not run before the second is accepted"


def test_rules_may_be_functions(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_exits: Any) -> None:
    @eexit.rule(parameter="probability")
    def surely(layer: Any, parameter: Any) -> Any:
        return layer.top2_prob[:, 0] >= parameter

    @eexit.mode
    def kept(exit: Any, layer: Any) -> Any:
        return exit.hidden

    out = tmp_path / "out"
    asked: dict[str, Any] = {**GRID, "model": model, "out": out, "rows_per_shard": 10}
    modes: list[Any] = ["normal", "unfrozen", "frozen_residual", kept]
    swept = eexit.sweep(["one", "two"], **{**asked, "rules": {**GRID["rules"], surely: [0.05]}, "modes": modes})
    runs, tokens = swept.runs, swept.tokens
    texts = {key: of[["token_id", "exit_layer"]].values.tolist() for key, of in tokens.groupby("configuration")}
    alike = [f"{mode}/{rule}/0.05" for mode in ("frozen_residual", "kept") for rule in ("confidence", "surely")]
    assert all(texts[key] == texts[alike[0]] for key in alike)
    assert [(each["name"], each["source"]) for each in swept.manifest.own] == [("surely", "surely"), ("kept", "kept")]
    own_exits()  # as in a fresh kernel, without the functions
    opened = eexit.open(out)
    gone = ["unfrozen/surely/0.05", "frozen_residual/surely/0.05", "frozen_residual/confidence/0.05"]
    gone += [key for key in texts if key.startswith("kept/")]
    for keys, line in (
        (["unfrozen/surly/0.05"], "has no configuration unfrozen/surly/0.05: did you mean unfrozen/surely/0"),
        ([*texts], r"^nothing would be left of .*: remove that folder instead$"),
    ):
        with pytest.raises(ValueError, match=line):
            opened.remove(keys)
    assert len(opened.runs) == 40
    opened.remove(configurations=gone)
    said = f"{out} shrinks by 6 configurations ({', '.join(gone)}): 24 runs removed, a grid of 16 runs left\n"
    assert capsys.readouterr().err == said
    stays = ~runs.configuration.isin(gone)
    assert_same(opened.runs, runs[stays], ["run_id"])
    assert_same(opened.tokens, tokens[~tokens.configuration.isin(gone)], ["run_id", "position"])
    assert {path.stem for path in (out / "tokens").iterdir()} == {path.stem for path in (out / "generations").iterdir()}
    assert (opened.manifest.n_runs, opened.manifest.own, opened.progress()) == (16, [], "")
    again = eexit.sweep(["one", "two"], **asked)
    assert_same(again.runs, runs[(runs.rule != "surely") & (runs["mode"] != "kept")], ["run_id"])


def test_without_out_results_live_as_long_as_the_object_and_its_report_longer(swept: Any, model: str) -> None:
    assert eexit.open(swept.out).report() == Path(swept.out, "report.html")
    short = eexit.sweep(["one"], model=model, **NORMAL)
    out, report = Path(short.out), short.report()
    assert len(pd.read_parquet(out / "generations")) == 2
    grown = eexit.sweep(["one", "two"], model=model, out=out, **{**NORMAL, "modes": ["skip"], "rules": {"agree": []}})
    assert "/agree" in grown._repr_html_() == short._repr_html_(), "an older object shows what its sweep has grown to"
    del short, grown
    gc.collect()
    assert [*out.iterdir()] == [report]
    assert "<title>Early exit" in report.read_text("utf-8")
    out = Path(eexit.sweep(["one"], model=model, **{**NORMAL, "max_new_tokens": 1}).out)
    gc.collect()
    assert not out.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own code
def test_a_loaded_model_whose_copy_would_be_another_is_refused(model: str, tmp_path: Path) -> None:
    to_compile, to_wrap, hooked = (loaded_from(model)["model"] for _ in range(3))
    hooked.model.norm.register_forward_hook(lambda *given: None)
    refused = {
        " is not supported: the model is compiled": torch.compile(to_compile, backend="eager"),
        " is not supported: it has an adapter of peft": get_peft_model(to_wrap, LoraConfig(target_modules=["q_proj"])),
        r"^the model's model.norm has a forward hook, .* put it on a layer": hooked,
    }
    for line, changed in refused.items():
        with pytest.raises(ValueError, match=line):
            eexit.sweep(["one"], **{**loaded_from(model), "model": changed}, exit_every=2, out=tmp_path / "out")
    assert [*tmp_path.glob("out/*")] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hooks_and_forwards_on_linear_modules_run_in_every_dtype(model: str, dtype: Any) -> None:
    given, called = loaded_from(model, dtype=dtype), set[str]()
    layers, projection = given["model"].model.layers, given["model"].model.layers[1].mlp.down_proj
    asked: Any = {**given, "rules": {"fixed": [5]}, "modes": ["normal", "unfrozen"], "max_new_tokens": 4, "quiet": True}
    before = eexit.sweep(["one"], **asked).runs.text[0]

    def scale(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        called.add("hook")
        return 1.5 * output

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        called.add("forward")
        return torch.roll(hidden @ projection.weight.T, 1, -1)

    for layer in layers[::2]:
        layer.mlp.up_proj.register_forward_hook(scale)
    vars(projection)["forward"] = forward
    token_1T = given["tokenizer"]("one", return_tensors="pt").input_ids
    made = given["model"].generate(token_1T, max_new_tokens=4, do_sample=False)
    called.clear()
    text = eexit.sweep(["one"], **asked).runs.text[0]
    assert text == given["tokenizer"].decode(made[0, token_1T.shape[1] :]) != before
    assert called == {"hook", "forward"}, "of this object, not of a copy"


UNAPPLIED = {"repetition_penalty": 1.3, "suppress_tokens": [5], "do_sample": True, "temperature": 0.6}


def test_unapplied_generation_config_is_named(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({**UNAPPLIED, "pad_token_id": 0, "top_p": 1.0}))
    given = loaded_from(folder)

    def said(**more: Any) -> tuple[set[str], Any]:
        done = eexit.sweep(["one"], **{"model": str(folder), "rules": {"fixed": [5]}, "max_new_tokens": 2, **more})
        line = " ".join(capsys.readouterr().err.split()).partition("the model's generation_config sets ")[2]
        return {*re.findall(r"(\w+)=", line)}, done.manifest.model["generation_config"]

    assert said() == said(**given) == ({*UNAPPLIED}, UNAPPLIED)
    assert said(temperature=0.6) == ({"repetition_penalty", "suppress_tokens"}, UNAPPLIED), "others are applied"
    given["model"].generation_config = type(given["model"].generation_config)()
    assert said(**given) == (set(), {})
