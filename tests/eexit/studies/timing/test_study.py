"""Timing a finished sweep: what lands, what is refused, and what stays when it is stopped."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from byte_model import save_byte_model
from commands import here
from driving import land_all, look_here

from cluster.studies import run as running_studies
from cluster.studies.run import run_study
from eexit.errors import UsageError
from eexit.plan.splits import sort_of
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import make_manifest, versions
from eexit.studies.timing.study import TimingArgs, in_turn, make_plan
from jobs import timings

TOKENS = 4
KEYS = ["normal", "generate", "unfrozen/fixed/2"]


def config_of(*prompts: str, **fields: Any) -> SweepConfig:
    named = [Prompt(id=text, prompt=text) for text in prompts]
    asked = {"model": "m", "prompts": named, "modes": ("normal", "unfrozen"), "rules": {"fixed": (2.0,)}, **fields}
    return SweepConfig.model_validate(asked)


def planned(folder: Path, config: SweepConfig, runs: Any, n_prompts: int, exitable: Any = (2,), **asked: Any) -> Any:
    manifest = make_manifest(config, {"n_layers": 6}, exitable)
    sweep = FinishedSweep(open_store(folder), manifest, pa.table(runs), "results")
    args = {"keys": (), "batches": (1,), "n_tokens": 4, "n_rounds": 1, **asked}
    return make_plan(sweep, TimingArgs(**args, n_prompts=n_prompts))


@pytest.mark.usefixtures("ray_here")
def test_every_round_of_every_contender_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts, of which the second failed; oracles and fixed exits."""
    save_byte_model(tmp_path / "model")
    grid = {"rules": {"kl": (1.0,), "fixed": (2.0,)}, "exit_every": 2, "max_new_tokens": TOKENS, "dtype": "float32"}
    finished = land_all(tmp_path / "out", config_of("one", "failed", "three", model=str(tmp_path / "model"), **grid))
    monkeypatch.setattr(running_studies, "run_study", partial(run_study, inspect=look_here))
    flags = "--batch 1 3 --rounds 2 --calls 1 --baselines generate/lookup --per-round 1 --steps"
    done = here(timings.main, finished, *flags.split())
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(finished / "timings")
    steps = [key for key in (f"unfrozen/fixed/{layer}" for layer in (2, 4)) if key not in KEYS]
    expected = {1: ["normal", "generate", "generate/lookup", KEYS[-1], *steps], 3: [*KEYS, *steps]}
    assert rows[["batch", "round", "configuration"]].to_numpy().tolist() == [
        [batch, number, key] for number in (1, 2) for batch in (1, 3) for key in expected[batch]
    ], "lookup refuses batches"
    assert rows.seconds.gt(0).all()
    assert rows.warm_up.gt(0).all()
    of_rounds = rows.groupby("round").prompt_ids.first()
    assert of_rounds.map(list).tolist() == [["one"], ["three"]], "not the one that failed"
    assert rows.tokens.eq((TOKENS - 2) * rows.batch).all()
    assert rows.threads.eq(2).all(), "one actor has both CPUs"
    assert rows.versions.str.contains(f"torch {versions()['torch']}", regex=False).all()
    assert rows.timing_id.nunique() == rows.started.nunique() == 1
    by_key = rows.set_index("configuration")
    assert rows[rows.configuration == "generate"][["mode", "rule", "macs_full"]].isna().all(axis=None)
    assert by_key.loc[["generate", "generate/lookup"]].identical.eq(1).all()
    assert by_key.loc["normal"].identical.isna().all()
    printed = [*map(str.split, done.stdout.splitlines())]
    assert ["3", "generate/lookup", *["–"] * 5] in printed
    assert ["layer"] * 3 in printed
    assert "1 and 3 sequences at a time, 2 rounds; one actor has all 2 CPUs of a node" in done.stderr


def test_timed_are_prompts_of_each_sort_and_not_the_first_ones(tmp_path: Path) -> None:
    prompts = [f"{sort}-{n}" for sort in ("capital", "sum", "letter", "code") for n in range(5)]
    failed = {f"{sort}-{n}" for sort in ("sum", "code") for n in (0, 2, 4)}
    status = ["error" if text in failed else "ok" for text in prompts]
    runs = {"prompt_id": prompts, "status": status, "configuration": ["normal"] * 20, "n_tokens": [9] * 20}
    plans = [planned(tmp_path, config_of(*prompts), runs, n) for n in (4, 8)]
    timed, more = ({prompt.id for prompt in plan.config.prompts} for plan in plans)
    assert sorted(map(sort_of, timed)) == ["capital", "code", "letter", "sum"]
    assert not failed & timed
    assert timed < more


def test_nothing_is_timed_behind_the_end_of_a_text(tmp_path: Path) -> None:
    """Full depth's texts count, and not those of a setting; short ones as well as long ones, unless they are asked."""
    keys, n_tokens = ["normal"] * 4 + ["unfrozen/fixed/2"] * 4, [5, 12, 16, 30, 40, 3, 40, 3]
    runs = {"prompt_id": [*"abcdabcd"], "status": ["ok"] * 8, "configuration": keys, "n_tokens": n_tokens}
    whole = {"a": 5, "b": 12, "c": 16, "d": 30}
    for asked, lengths in ((None, whole), (16, {"c": 16, "d": 16}), (64, {"d": 30})):
        study = planned(tmp_path, config_of(*"abcd"), runs, 8, n_tokens=asked)
        assert (study.lengths, {prompt.id for prompt in study.config.prompts}) == (lengths, {*lengths})


def test_prompts_take_turns_and_a_round_has_as_many_as_any_other() -> None:
    for n_prompts, per_round in ((6, 2), (5, 2), (3, 4), (4, None)):
        rounds = [in_turn(range(n_prompts), number, per_round) for number in range(1, 5)]
        assert {len(each) for each in rounds} == {min(per_round or n_prompts, n_prompts)}
        n_turns = max(1, n_prompts // (per_round or n_prompts))
        assert len({at for each in rounds for at in each}) == n_turns * len(rounds[0]), "all had their turn"
        assert rounds[n_turns] == rounds[0], "then they begin again"


def test_what_exits_allow_is_told_from_those_of_the_timed_prompts(tmp_path: Path) -> None:
    key, counts = "unfrozen/fixed/2", {"sum-1": [(2, 10)], "sum-2": [(2, 3), (5, 1)], "sum-3": [(5, 7)]}
    exits = pa.array(counts.values(), pa.map_(pa.int64(), pa.int64()))
    runs = {"prompt_id": [*counts], "status": ["ok"] * 3, "configuration": [key] * 3, "n_tokens": [4] * 3}
    for n_prompts in (1, 2, 3):
        study = planned(tmp_path, config_of(*counts), {**runs, "exit_layer_counts": exits}, n_prompts, with_steps=True)
        timed = [counts[prompt.id] for prompt in study.config.prompts]
        early, late = (sum(dict(of_run).get(layer, 0) for of_run in timed) for layer in (2, 5))
        shares = {2: early / (early + late), 5: late / (early + late)}
        assert study._exits.shares == {key: {layer: n for layer, n in shares.items() if n}}


def test_among_the_fastest_steps_are_at_the_exit_layers_of_what_is_timed(tmp_path: Path) -> None:
    config = config_of("a", rules={"confidence": (0.9,)}, exit_sets=("4", "all"))
    ran = {"prompt_id": ["a"], "status": ["ok"], "configuration": ["normal"], "n_tokens": [9]}
    runs = {**ran, "exit_layer_counts": pa.array([[(5, 9)]], pa.map_(pa.int64(), pa.int64()))}

    def steps(key: str, only_fastest: bool) -> set[str]:
        study = planned(tmp_path, config, runs, 1, [2, 4], keys=(key,), with_steps=True, only_fastest=only_fastest)
        return {each.key for each in study.alternatives if "/fixed/" in each.key}

    assert steps("unfrozen/confidence/0.9@4", only_fastest=True) == {"unfrozen/fixed/4"}
    both = {"unfrozen/fixed/2", "unfrozen/fixed/4"}
    assert steps("unfrozen/confidence/0.9", only_fastest=True) == both
    assert steps("unfrozen/confidence/0.9@4", only_fastest=False) == both


def test_what_can_not_be_timed_is_told_in_a_line(tmp_path: Path) -> None:
    online, oracle = {"rules": {"fixed": (2.0,)}}, {"rules": {"kl": (1.0,)}}
    with_oracle = {"rules": {**oracle["rules"], **online["rules"]}}
    of_prompts = {**online, "prompt_exits": True, "only": ["normal", "unfrozen/fixed/2+prompt"]}
    refused: list[tuple[dict[str, Any], str, dict[str, Any], str]] = [
        (with_oracle, "ok", {"keys": ["unfrozen/kl/1"]}, "unfrozen/kl/1 can't be timed: kl is an oracle, which needs"),
        (with_oracle, "ok", {"keys": ["unfrozen/fixd/2"]}, "no configuration unfrozen/fixd/2: did you mean unfrozen/f"),
        (with_oracle, "ok", {"keys": ["x"]}, "no configuration x: it has normal, unfrozen/kl/1, unfrozen/fixed/2"),
        (online, "ok", {"baselines": ["generate/4bit"]}, "--baselines generate/4bit is not known: choose from gene"),
        (online, "ok", {"n_tokens": 2}, "--tokens must be at least 3, since the first two are not timed, got 2"),
        (oracle, "ok", {}, "has nothing to time: its rules are oracles"),
        (of_prompts, "ok", {}, "has nothing to time: its rules are oracles"),
        (of_prompts, "ok", {"keys": of_prompts["only"]}, r"2\+prompt can't be timed: a prompt's tokens run together"),
        (online, "error", {}, "are errors: there is no prompt to time"),
    ]
    for fields, status, asked, message in refused:
        runs = {"prompt_id": ["a"], "status": [status], "configuration": ["normal"], "n_tokens": [9]}
        with pytest.raises(UsageError, match=message) as raised:
            planned(tmp_path, config_of("a", **fields), runs, 8, **asked)
        assert "\n" not in str(raised.value)
