"""Rules and modes of one's own, through the commands: on actors, gone on with, replayed, timed, packaged, shown."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chart_fields import content_of
from commands import refusal, success
from driving import land_all
from taken_settings import loaded, run, texts_of

import eexit
from cluster.custom_exits import CustomExits
from eexit.custom_generate.package import SETTING
from eexit.method.custom import digest_of, use_files
from eexit.plan.sweep_config import SweepConfig
from eexit.results.checksums import encode_generations
from eexit.results.finished_sweep import manifest_of
from eexit.results.parquet_files import read_generations
from eexit.results.store.folder import open_store
from eexit.studies.selection.selection_args import families
from jobs import package, replay, report, sweep, timings
from reports.read.sweep import read_sweep
from reports.shared.styles import ChartStyle

MINE = Path(__file__).parents[1] / "support" / "my_exits.py"
TEXTS = ("Why?", "Count to ten.", "No")
PROMPTS = [{"id": f"{n}", "prompt": text} for n, text in enumerate(TEXTS)]
GRID: dict[str, Any] = {
    "rules": {"sure": [0.3], "confidence": [0.3], "by_chance": [0.3]},
    "modes": ["normal", "frozen_residual", "as_it_was"], "dtype": "float32", "max_new_tokens": 10, "exit_every": 2,
}  # fmt: skip
KEY = "as_it_was/sure/0.3"
Forget = Callable[[], None]


def surely(layer: Any) -> Any:
    """exits where `confidence` does, by a function of the module that it is in"""
    return highest(layer)


def highest(layer: Any) -> Any:
    return layer.top2_prob[:, 0]


def asked(model: Path, out: Path, *further: str | Path) -> list[str | Path]:
    (out.parent / "prompts.txt").write_text("\n".join(TEXTS))
    given = ["--quiet", "--dtype", "float32", "--max-new-tokens", "10", "--exit-every", "2"]
    return ["--model", model, "--prompts", out.parent / "prompts.txt", "--out", out, *given, *further]


@pytest.fixture
def out(tiny: Path, tmp_path: Path, own_exits: Forget) -> Path:
    """A finished sweep; nothing is known any more of the file that it had its custom rules and modes from."""
    use_files([MINE])
    land_all(tmp_path / "out", SweepConfig.model_validate({"model": str(tiny), "prompts": PROMPTS, **GRID}))
    own_exits()
    return tmp_path / "out"


@pytest.mark.usefixtures("local_ray", "own_exits")
def test_actors_run_what_the_driver_was_given_as_a_file_and_as_a_function(tiny: Path, tmp_path: Path) -> None:
    eexit.rule(parameter="probability")(surely)
    grid = ["--rules", "confidence=0.3", "sure=0.3", "surely=0.3", "--modes", "frozen_residual", "as_it_was"]
    actors = ["--actors", "2", "--cpus-per-actor", "1", "--rows-per-shard", "4"]
    success(sweep.main, *asked(tiny, tmp_path / "out", "--use", MINE, *grid, *actors))
    tokens = pd.read_parquet(tmp_path / "out" / "tokens").sort_values(["prompt_id", "position"])
    by_key = {key: of[["token_id", "exit_layer"]].values.tolist() for key, of in tokens.groupby("configuration")}
    assert len(by_key) == 6
    ours = by_key.pop("frozen_residual/confidence/0.3")
    assert len({layer for _, layer in ours}) > 1
    assert all(own == ours for own in by_key.values())


def test_a_manifest_describes_own_rules_and_is_remade(out: Path, tiny: Path, tmp_path: Path, own_exits: Forget) -> None:
    held = manifest_of(open_store(out), "out").own
    names = [("rule", "sure"), ("rule", "by_chance"), ("mode", "as_it_was")]
    assert [(each["kind"], each["name"]) for each in held] == names
    assert {(each["source"], each["text"]) for each in held} == {("my_exits.py", MINE.read_text())}
    assert held[0]["definition"] == "exits where `confidence` does"
    assert (held[0]["higher_exits_later"], held[1]["draws"]) == (True, True)
    (out / "sweep.json").unlink()
    again = partial(eexit.sweep, PROMPTS, model=tiny, out=out, quiet=True, **GRID)
    other = tmp_path / "my_exits.py"
    other.write_text(MINE.read_text() + "\n# changed\n")
    with pytest.raises(ValueError, match=r"has another rule sure than my_exits\.py now has: give use='my_exits\.py'"):
        again(use=[other])
    own_exits()
    assert len(again(use=[MINE]).runs) == 3 * 7
    assert manifest_of(open_store(out), "out").own == held
    (shard,) = (out / "generations").iterdir()
    kept = read_generations(open_store(out), shard.stem)
    sealed = encode_generations(kept.rows.replace_schema_metadata(), kept.tokens, kept.attempt)
    shard.write_bytes(sealed)  # as versions wrote it that recorded nothing of own rules
    (out / "sweep.json").unlink()
    with pytest.raises(ValueError, match="and whether as_it_was has changed is unknown: choose another out"):
        again(use=[MINE])


def test_what_can_not_leave_the_process_is_refused(own_exits: Forget) -> None:
    highest_once = cache(highest)

    @eexit.rule()
    def cached(layer: Any) -> Any:
        return highest_once(layer) > 0

    with pytest.raises(ValueError, match=r"cached can't be sent to other processes \(.*: .*: put it into a file"):
        CustomExits.among({"cached"})


threshold = 0.3  # as in a notebook, where it changes later


def test_a_rule_keeps_its_value(tiny: Path, tmp_path: Path, own_exits: Forget, monkeypatch: pytest.MonkeyPatch) -> None:
    @eexit.rule(parameter="layer")
    def beyond_threshold(layer: Any, parameter: Any) -> Any:
        return (layer.top2_prob[:, 0] >= threshold) & (layer.index >= parameter)

    def n_runs(at: float) -> int:
        grid = {**GRID, "modes": ["skip"], "rules": {beyond_threshold: [at]}}
        return len(eexit.sweep(["?"], model=tiny, out=tmp_path, quiet=True, **grid).runs)

    assert (n_runs(2), n_runs(4)) == (1, 2)
    monkeypatch.setitem(globals(), "threshold", 0.6)
    with pytest.raises(ValueError, match=r"threshold was 0\.3, and it is 0\.6 now: set it as it was, or"):
        n_runs(6)
    monkeypatch.setitem(globals(), "threshold", 0.3)
    assert n_runs(6) == 3


@pytest.mark.usefixtures("ray_here")
def test_whoever_goes_on_gives_the_file_for_what_still_has_to_run(out: Path, tiny: Path, tmp_path: Path) -> None:
    more = asked(tiny, out, "--rules", "margin=0.3", "--modes", "skip")
    success(sweep.main, *more)
    assert len(pd.read_parquet(out / "generations")) == 3 * (7 + 1)
    of_controls = asked(tiny, tmp_path / "other", "--controls-of", str(out), "--modes", "normal")
    commands: list[tuple[Any, ...]] = [
        (sweep.main, "rule sure", *more, "--seeds", "1"),
        (sweep.main, "mode as_it_was", *of_controls),
        (replay.main, "rule sure", out, "--rules", "sure=0.4"),
        (timings.main, "rule sure", out),
        (package.main, "rule sure", out, "--configuration", KEY, "--out", tmp_path / "home"),
    ]
    for main, what, *arguments in commands:
        reason = f"has {what} of a user's own, whose text is stored and not run: give --use my_exits.py (SHA-256 "
        assert reason in refusal(main, *arguments)


@pytest.mark.usefixtures("ray_here")
def test_a_changed_file_runs_anew_and_earlier_results_stay(out: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "my_exits.py").write_text("# mine\n" + MINE.read_text())
    rules = ("--rules", "sure=0.6", "--modes", "frozen_residual", "--use", tmp_path / "my_exits.py")
    success(sweep.main, *asked(tiny, out, *rules, "--json", tmp_path / "figures.json"))
    digest = digest_of(MINE.read_text())[:6]
    figures = json.loads((tmp_path / "figures.json").read_text())
    keys = {each["configuration"] for each in figures["configurations"]}
    earlier = {f"{mode}/sure~{digest}/0.3" for mode in ("frozen_residual", "as_it_was")}
    assert {*earlier, "frozen_residual/sure/0.6"} == {key for key in keys if "/sure" in key}
    assert len(eexit.open(out).runs) == 3 * (7 + 1)
    assert {*earlier, "frozen_residual/sure/0.6"} <= {*read_sweep(str(out)).generations["configuration"]}


@pytest.mark.usefixtures("ray_here")
def test_it_is_replayed_timed_packaged_and_loaded(out: Path, tiny: Path, tmp_path: Path, own_exits: Forget) -> None:
    rules, use = ("--rules", "sure=0.2,0.4", "confidence=0.2,0.4"), ("--use", MINE, "--device", "cpu", "--quiet")
    success(replay.main, out, *rules, "--modes", "as_it_was", *use)
    replayed = pd.read_parquet(out / "replays").set_index("configuration")
    for at in ("0.2", "0.4"):
        ours, theirs = (replayed.loc[f"as_it_was/{rule}/{at}"] for rule in ("sure", "confidence"))
        assert (ours["mean_depth"], ours["macs_executed"]) == (theirs["mean_depth"], theirs["macs_executed"])
    sizes = ["--batch", "1", "--prompts", "1", "--rounds", "1", "--calls", "1", "--tokens", "4"]
    success(timings.main, out, "--configurations", KEY, *sizes, *use)
    assert KEY in {*pd.read_parquet(out / "timings")["configuration"]}
    home = tmp_path / "home"
    assert f"use=[{str(MINE)!r}])" in success(package.main, out, "--configuration", KEY, "--out", home, *use).stdout
    assert "Rule sure is not of eexit: exits where `confidence` does." in (home / "README.md").read_text()

    own_exits()
    with pytest.raises(ValueError, match=r"home has rule sure of a user's own, .* not run: give use='my_exits.py'"):
        eexit.load(home)
    (tmp_path / "my_exits.py").write_text(MINE.read_text() + "\n")
    with pytest.raises(ValueError, match=r"home has another rule sure than my_exits\.py now has"):
        eexit.load(home, use=tmp_path / "my_exits.py")
    setting, (prompts, texts) = eexit.load(home, use=MINE), texts_of(out, KEY)
    assert MINE.read_text() in (home / SETTING).read_text().encode().decode("unicode_escape")
    for n_rows in (len(texts), 1):
        assert run(loaded(tiny), setting, prompts[:n_rows], max_new_tokens=10) == texts[:n_rows]


def test_the_report_the_tables_and_a_choice_do_without_the_file(out: Path, tmp_path: Path) -> None:
    success(report.main, out, "--out", tmp_path / "report.html")
    told = content_of(tmp_path / "report.html")
    assert told["rules"]["sure"] == {
        "definition": "exits where `confidence` does", "parameter": "probability", "unit": "",
        "score_name": "exit probability", "compares": None, "oracle": False,
    }  # fmt: skip
    assert told["modes"]["as_it_was"].startswith("deeper layers make keys and values of the stream at the exit")
    looks = ChartStyle.for_configurations(read_sweep(str(out)).configurations)
    assert (looks.modes, looks.rules) == (tuple(GRID["modes"]), tuple(GRID["rules"]))
    assert "by_chance" in str(eexit.open(out))
    found = [each.name for each in families(eexit.open(out).manifest.configurations)]
    assert found[:2] == ["frozen_residual/sure", "frozen_residual/confidence"]
