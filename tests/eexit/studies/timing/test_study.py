"""Timing a finished sweep: what lands, what is refused, and what stays when it is stopped."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from byte_model import save_byte_model
from driving import look_here
from landed_sweep import land_all
from ray_here import RayHere

from cluster.studies import run as running_studies
from cluster.studies.run import run_study
from eexit.errors import UsageError
from eexit.output.progress import NullDisplay, Progress
from eexit.plan.splits import sort_of
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import make_manifest, versions
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.study import TimingArgs, in_turn, make_plan
from jobs import timings

TOKENS = 4
KEYS = ["normal", "generate", "unfrozen/fixed/2"]


def config_of(*prompts: str, **fields: Any) -> SweepConfig:
    named = tuple(Prompt(id=text, prompt=text) for text in prompts)
    asked = {"model": "m", "prompts": named, "modes": ("normal", "unfrozen"), "rules": {"fixed": (2.0,)}, **fields}
    return SweepConfig.model_validate(asked)


def planned(folder: Path, config: SweepConfig, runs: Mapping[str, Any], n_prompts: int, **asked: Any) -> Any:
    """Return the study of a finished sweep with these runs."""
    manifest = make_manifest(config, {"n_layers": 6}, [2])
    sweep = FinishedSweep(open_store(folder), manifest, pa.table(runs), "results")
    return make_plan(
        sweep, TimingArgs(**{"keys": (), "batches": (1,), "n_tokens": 4, "n_rounds": 1, **asked}, n_prompts=n_prompts)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three prompts, of which the second failed; oracles and fixed exits."""
    folder = tmp_path_factory.mktemp("timed")
    save_byte_model(folder / "model")
    grid = {"rules": {"kl": (1.0,), "fixed": (2.0,)}, "exit_every": 2, "max_new_tokens": TOKENS, "dtype": "float32"}
    return land_all(folder / "out", config_of("one", "failed", "three", model=str(folder / "model"), **grid))


def timed(out: Path, **others: Any) -> Sequence[Mapping[str, Any]]:
    running: dict[str, Any] = {"display": NullDisplay(), "inspect": look_here}
    running |= {name: others.pop(name) for name in running if name in others}
    asked: dict[str, Any] = {"keys": (), "batches": (1, 3), "n_prompts": 8, "n_tokens": None, "n_rounds": 2, **others}
    what = TimingArgs(**asked)
    return run_study(str(out), partial(make_plan, asked=what), **running, columns=what.columns).rows


@pytest.fixture
def model_is_described_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_studies, "run_study", partial(run_study, inspect=look_here))


@pytest.mark.usefixtures("ray_here", "model_is_described_here")
def test_every_round_of_every_contender_lands_and_the_table_sets_savings_side_by_side(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert timings.main([str(finished), "--batch", "1", "3", "--rounds", "2", "--calls", "1"]) == 0
    printed = capsys.readouterr()
    rows = pd.read_parquet(finished / "timings")
    assert rows.columns.tolist() == TIMINGS.schema.names
    assert rows[["batch", "round", "configuration"]].to_numpy().tolist() == [
        [batch, number, key] for number in (1, 2) for batch in (1, 3) for key in KEYS
    ]
    assert rows.seconds.gt(0).all()
    assert rows.prompts.eq(2).all(), "without the one that failed"
    assert all(prompt_ids.tolist() == ["one", "three"] for prompt_ids in rows.prompt_ids)
    assert "Prompts: one, three." in " ".join(printed.out.split())
    assert rows.tokens.tolist() == [row_count * (TOKENS - 2) for row_count in rows.batch.map({1: 2, 3: 3})]
    assert rows.threads.eq(2).all(), "one actor has both CPUs"
    assert (set(rows.device), set(rows.dtype)) == ({"cpu"}, {"float32"})
    assert rows.versions.str.contains(f"torch {versions()['torch']}", regex=False).all()
    assert rows[rows.configuration == "generate"][["mode", "rule", "macs_full"]].isna().all(axis=None)
    assert rows.timing_id.nunique() == rows.started.nunique() == 1
    for key in KEYS:
        assert [line.split()[0] for line in printed.out.splitlines() if line.split()[1:2] == [key]] == ["1", "3"]
    assert f'pd.read_parquet("{finished}/timings")' in printed.out
    assert "1 and 3 sequences at a time, 2 rounds; one actor has all 2 CPUs of a node" in printed.err
    assert printed.err.splitlines()[-1] == "60 tokens · done · 0:00 left"


@pytest.mark.usefixtures("ray_here", "model_is_described_here")
def test_variants_of_generate_stand_beside_it_with_what_they_write(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    copytree(finished, out, ignore=lambda *_: ["timings"])
    flags = ["--batch", "1", "3", "--rounds", "2", "--calls", "1", "--baselines", "generate/lookup", "--per-round", "1"]
    assert timings.main([str(out), *flags]) == 0
    rows = pd.read_parquet(out / "timings").set_index("configuration")
    assert rows[rows["round"] == 1].prompt_ids.map(tuple).unique().tolist() == [("one",)]
    assert rows[rows["round"] == 2].prompt_ids.map(tuple).unique().tolist() == [("three",)]
    assert rows.prompts.eq(1).all()
    assert rows.loc["generate/lookup"].batch.eq(1).all(), "it refuses batches"
    assert rows.loc[["generate", "generate/lookup"]].identical.eq(1).all()
    assert rows.loc[["generate", "generate/lookup"]].first_difference.isna().all()
    assert rows.loc["normal"].identical.isna().all()
    assert rows.warm_up.gt(0).all()
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed if "generate" in line]
    assert ["3", "generate/lookup", *["–"] * 5] in lines
    [one_row] = [line for line in lines if line[:2] == ["1", "generate/lookup"] and line[4:6] == ["100.0%", "none"]]
    assert len(one_row) == 7


@pytest.mark.usefixtures("ray_here", "model_is_described_here")
def test_with_steps_exits_at_each_layer_are_timed_and_say_what_they_allow(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    copytree(finished, out, ignore=lambda *_: ["timings"])
    assert timings.main([str(out), "--batch", "1", "3", "--rounds", "1", "--calls", "1", "--steps"]) == 0
    printed = capsys.readouterr().out
    layers = read_finished(str(out), ["status"]).manifest.exitable_layers
    keys = pd.read_parquet(out / "timings").configuration
    assert {f"unfrozen/fixed/{layer}" for layer in layers} <= set(keys)
    heading = next(line for line in printed.splitlines() if line.split()[:2] == ["layer"] * 2)
    assert heading.split() == ["layer"] * (len(layers) + 1)
    assert "A step, in milliseconds, by the sequences decoded together" in " ".join(printed.split())
    assert "Allowed: what exits as often at each layer as in the sweep's runs of these prompts would save" in " ".join(
        printed.split()
    )


def test_timed_are_prompts_of_each_sort_and_not_the_first_ones(tmp_path: Path) -> None:
    """Of four sorts one each, without those that failed."""
    prompts = [f"{sort}-{n}" for sort in ("capital", "sum", "letter", "code") for n in range(5)]
    failed = {f"{sort}-{n}" for sort in ("sum", "code") for n in (0, 2, 4)}
    status = ["error" if text in failed else "ok" for text in prompts]
    runs = {"prompt_id": prompts, "status": status, "configuration": ["normal"] * 20, "n_tokens": [9] * 20}
    timed, more = (
        {prompt.id for prompt in planned(tmp_path, config_of(*prompts), runs, n).config.prompts} for n in (4, 8)
    )
    assert sorted(map(sort_of, timed)) == ["capital", "code", "letter", "sum"]
    assert not failed & timed
    assert timed < more


@pytest.mark.parametrize(
    ("asked", "timed"), [(None, {"a": 5, "b": 12, "c": 16, "d": 30}), (16, {"c": 16, "d": 16}), (64, {"d": 30})]
)
def test_nothing_is_timed_behind_the_end_of_a_text(tmp_path: Path, asked: int | None, timed: dict[str, int]) -> None:
    """Full depth's texts count, and not those of a setting; short ones as well as long ones, unless they are asked."""
    keys, n_tokens = ["normal"] * 4 + ["unfrozen/fixed/2"] * 4, [5, 12, 16, 30, 40, 3, 40, 3]
    runs = {"prompt_id": [*"abcdabcd"], "status": ["ok"] * 8, "configuration": keys, "n_tokens": n_tokens}
    study = planned(tmp_path, config_of(*"abcd"), runs, 8, n_tokens=asked)
    assert (study.lengths, {prompt.id for prompt in study.config.prompts}) == (timed, {*timed})


@pytest.mark.parametrize(("n_prompts", "per_round"), [(6, 2), (5, 2), (3, 4), (4, None)])
def test_prompts_take_turns_and_a_round_has_as_many_as_any_other(n_prompts: int, per_round: int | None) -> None:
    rounds = [in_turn(range(n_prompts), number, per_round) for number in range(1, 5)]
    assert {len(each) for each in rounds} == {min(per_round or n_prompts, n_prompts)}
    n_turns = max(1, n_prompts // (per_round or n_prompts))
    assert len({at for each in rounds for at in each}) == n_turns * len(rounds[0]), (
        "none twice before all had their turn"
    )
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
    config = SweepConfig(
        model="m", prompts=(Prompt(id="a", prompt="a"),), modes=("normal", "unfrozen"), rules={"confidence": (0.9,)},
        exit_sets=("4", "all"),
    )  # fmt: skip
    ran = {"prompt_id": ["a"], "status": ["ok"], "configuration": ["normal"], "n_tokens": [9]}
    runs = pa.table({**ran, "exit_layer_counts": pa.array([[(5, 9)]], pa.map_(pa.int64(), pa.int64()))})
    sweep = FinishedSweep(open_store(tmp_path), make_manifest(config, {"n_layers": 6}, [2, 4]), runs, "results")

    def steps(key: str, only_fastest: bool) -> set[str]:
        args = TimingArgs((key,), (1,), 1, 4, 1, with_steps=True, only_fastest=only_fastest)
        return {each.key for each in make_plan(sweep, args).alternatives if "/fixed/" in each.key}

    assert steps("unfrozen/confidence/0.9@4", only_fastest=True) == {"unfrozen/fixed/4"}
    both = {"unfrozen/fixed/2", "unfrozen/fixed/4"}
    assert steps("unfrozen/confidence/0.9", only_fastest=True) == both
    assert steps("unfrozen/confidence/0.9@4", only_fastest=False) == both


class StopsInRound2(NullDisplay):
    def show(self, progress: Progress, last: bool = False) -> None:
        if "normal, 1 row, round 2 of 2" in progress.doing:
            raise KeyboardInterrupt


def test_finished_rounds_stay_when_it_is_stopped_beside_those_of_earlier_calls(
    finished: Path, ray_here: RayHere
) -> None:
    before = TIMINGS.read(open_store(finished)).to_pandas()
    with pytest.raises(KeyboardInterrupt):
        timed(finished, batches=(1,), display=StopsInRound2())
    after = TIMINGS.read(open_store(finished)).to_pandas()
    assert after.timing_id[: len(before)].tolist() == before.timing_id.tolist()
    new = after[len(before) :]
    assert new[["round", "configuration"]].to_numpy().tolist() == [[1, key] for key in KEYS]
    assert not set(new.timing_id) & set(before.timing_id)
    assert ray_here.free == 2, "the actor's are free again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": ["unfrozen/kl/1"]}, "unfrozen/kl/1 can't be timed: kl is an oracle, which needs the full-depth pass"),
        ({"keys": ["unfrozen/fixd/2"]}, "no configuration unfrozen/fixd/2: did you mean unfrozen/fixed/2"),
        ({"keys": ["x"]}, "no configuration x: it has normal, unfrozen/kl/1, unfrozen/fixed/2"),
        (
            {"baselines": ["generate/4bit"]},
            "--baselines generate/4bit is not known: choose from generate, generate/lookup",
        ),
        ({"n_tokens": 2}, "--tokens must be at least 3, since the first two are not timed, got 2"),
    ],
)
def test_what_can_not_be_timed_is_told_in_a_line_before_anything_is_loaded(
    finished: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        timed(finished, **arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_a_sweep_with_online_rules_and_texts_is_timed(finished: Path, tmp_path: Path) -> None:
    for rules, message in (
        ({"kl": (1.0,)}, "has nothing to time: its rules are oracles, which save nothing at run time"),
        ({"fixed": (5.0,)}, "are errors: there is no prompt to time"),
    ):
        config = config_of("failed", model=str(finished.parent / "model"), rules=rules)
        with pytest.raises(UsageError, match=message):
            timed(land_all(tmp_path / next(iter(rules)), config))
