"""Sweeps from Python, in this process and without Ray: the same results as the command's, and one folder for both."""

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from byte_model import save_byte_model
from commands import asked_here
from driving import assert_same
from scripted import rows_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import eexit
from cluster.job import SweepJob
from cluster.sweep import run_job
from eexit.errors import SweepStopped
from eexit.output.progress import Silence
from eexit.plan import model_facts
from eexit.plan.config import SweepConfig
from eexit.plan.runs import Run
from eexit.results.shard_tables import OnProgress, Results
from eexit.results.store.writing_shards import Tally
from eexit.sweeps import here
from eexit.sweeps.arguments import from_python

PROMPTS = ["one <b>", {"prompt": "3 + 4?", "answer": "7"}, "x" * 300]  # the last is longer than the model reads
GRID: dict[str, Any] = {
    "rules": {"confidence": [0.05, 0.9]}, "exit_every": 2, "max_new_tokens": 8, "dtype": "float32", "seeds": range(2),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def swept(model: str, tmp_path_factory: pytest.TempPathFactory) -> eexit.SweepResults:
    return eexit.sweep(PROMPTS, model=model, out=tmp_path_factory.mktemp("swept") / "out", quiet=True, **GRID)


def on_ray(out: str | Path, model: str) -> Tally:
    """What the command does with the same flags."""
    arguments = {**GRID, "model": model, "out": str(out), "rows_per_shard": 10}
    return run_job(from_python(SweepJob, PROMPTS, arguments, "the test"), Silence()).tally


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
    monkeypatch.setattr(model_facts, "asking", asked_here())
    assert on_ray(tmp_path / "out", model).runs == 30
    shards = {path: pd.read_parquet(path) for path in (tmp_path / "out" / "generations").iterdir()}
    lost = next(path for path, rows in shards.items() if "ok" in {*rows.status})
    lost.unlink()
    again = eexit.sweep(PROMPTS, model=model, out=tmp_path / "out", quiet=True, **GRID)
    assert_same(again.runs, swept.runs, ["run_id"])
    assert_same(again.tokens, swept.tokens, ["run_id", "position"])
    assert len(shards[lost]) == 10
    assert on_ray(tmp_path / "out", model) == Tally(10, 10, 0), "errors are tried again, and nothing else is left"


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
    assert repr(swept).splitlines()[-1] == swept.out


def test_an_older_object_shows_what_its_sweep_has_grown_to(model: str) -> None:
    first = eexit.sweep(["one"], model=model, quiet=True, **GRID)
    assert "/agree" not in first._repr_html_()
    second = eexit.sweep(["one", "two"], model=model, quiet=True, out=first.out, **{**GRID, "rules": {"agree": []}})
    assert first._repr_html_() == second._repr_html_()


def test_the_report_is_beside_the_results_which_can_be_opened(swept: eexit.SweepResults) -> None:
    opened = eexit.open(swept.out)
    assert opened.report() == Path(swept.out, "report.html")
    assert opened.runs.equals(swept.runs)


def test_certainty_is_what_the_columns_of_normals_tokens_say(swept: eexit.SweepResults, model: str) -> None:
    """The two prompts have as many tokens each, so that means over tokens are those over prompts."""
    found, tokens = swept.certainty(sure=0.01), swept.tokens
    decided = tokens[(tokens.configuration == "normal") & tokens.decided]
    p = [[top[0] for top in layers] for layers in decided.top_prob]
    likeliest = [[top[0] for top in layers] for layers in decided.top_token_ids]
    sure = pd.DataFrame(p, columns=[2, 4, 6]) >= 0.01
    confirmed = sure & pd.DataFrame(likeliest, columns=[2, 4, 6]).apply(lambda of: of == of[6], axis=1)
    assert found.layer.tolist() == [2, 4, 6]
    assert found.sure.tolist() == pytest.approx(sure.mean().tolist())
    assert found.confirmed.tolist() == pytest.approx(confirmed.mean().tolist())
    assert 0 < found.confirmed[0] < found.sure[0]
    for options in ({"record_top_k": 0}, {"observe": "final"}, {"modes": ["skip"]}):
        bare = eexit.sweep(["one"], model=model, quiet=True, **{**GRID, "max_new_tokens": 2, "seeds": [0], **options})
        with pytest.raises(ValueError, match="does not have what layers say of the tokens of normal: sweep with norm"):
            bare.certainty()


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
        return layer.top_p[:, 0] >= parameter

    @eexit.state
    def kept(exit: Any, layer: Any) -> Any:
        return exit.stream

    asked: dict[str, Any] = {"rules": {surely: [0.05], "confidence": [0.05]}, "modes": ["frozen_residual", kept]}
    short = eexit.sweep(["one"], model=model, quiet=True, **{**GRID, **asked})
    texts = {key: of[["token_id", "exit_layer"]].values.tolist() for key, of in short.tokens.groupby("configuration")}
    assert len(texts) == 4
    assert all(text == texts["frozen_residual/confidence/0.05"] for text in texts.values())
    assert [(each["name"], each["source"]) for each in short.manifest.own] == [("surely", "surely"), ("kept", "kept")]


class Fails:
    """A model that raises for one prompt, and from some run on always."""

    def __init__(self, config: SweepConfig, most: int = 1000) -> None:
        self.config, self.left = config, most

    def generate(self, runs: Sequence[Run], progress: OnProgress) -> Results:
        self.left -= len(runs)
        if self.left < 0 or any(run.prompt.prompt == "bad" for run in runs):
            raise RuntimeError("no such luck")
        return rows_of(runs, self.config)


def test_what_raises_becomes_the_errors_of_its_runs_and_stops_a_sweep_that_only_fails(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid: dict[str, Any] = {"model": model, "modes": ["normal"], "exit_every": 2, "dtype": "float32", "quiet": True}
    monkeypatch.setattr(here, "ModelGenerator", lambda config, device, loaded: Fails(config))
    done = eexit.sweep(["one", "bad", "two"], out=tmp_path / "one", **grid)
    assert done.runs.status.tolist() == ["ok", "error", "ok"]
    assert done.runs.error[1] == "RuntimeError: no such luck"
    monkeypatch.setattr(here, "ModelGenerator", lambda config, device, loaded: Fails(config, 4))
    with pytest.raises(SweepStopped, match="a run that had worked now fails too: RuntimeError: no such luck"):
        eexit.sweep([*map(str, range(40))], out=tmp_path / "two", rows_per_shard=2, **grid)
    assert (eexit.open(tmp_path / "two").runs.status == "ok").sum() == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"ruls": {}}, "unknown key 'ruls' in eexit.sweep: did you mean rules?"),
        ({"rules": {"confidence": [7]}}, "rule confidence takes a threshold above 0 and up to 1, as in confidence=0.9, "
         "got 7 (rules in eexit.sweep)"),
        ({"max_new_tokens": 0}, "max_new_tokens must be ≥ 1, got 0 (max_new_tokens in eexit.sweep)"),
        ({"exit_layers": [9]}, "exit layer 9 is not below the final layer: {model} has layers 0…6, so exit_layers may "
         "go up to 5"),
        ({"controls_in": ["skip"]}, "controls_in skip has no effect: give controls_of RESULTS"),
        ({"probe": "nowhere"}, "probe nowhere is not a folder that is there: give one that jobs/train.py made"),
        ({"model": 3}, "model must be a name, a path or a model of transformers, got '3'"),
        ({"tokenizer": "x"}, "tokenizer has no effect: a model that is named brings its own, so leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_value_error_that_names_the_argument(
    model: str, tmp_path: Path, arguments: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        eexit.sweep(["one"], out=tmp_path / "out", **{"model": model, "exit_every": 2, "quiet": True, **arguments})
    assert str(raised.value) == line.format(model=model)
    assert list(tmp_path.iterdir()) == []


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
