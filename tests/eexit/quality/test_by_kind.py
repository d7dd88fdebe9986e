"""Effects of settings on kinds of prompts, against the same in pandas."""

import json
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS, by_kind
from eexit.quality.estimates import MIN_SAMPLES

KEY = "skip/kl/1"
# Two kinds by their ids; one by its name, two prompts of which are a group; and one prompt of no kind.
PROMPTS: list[dict[str, Any]] = [
    *({"id": f"sum-{number}", "prompt": f"{number}?"} for number in range(8)),
    *({"id": f"fact-{number}", "prompt": f"fact {number}"} for number in range(6)),
    *({"id": f"{number}", "prompt": f"other {number}", "kind": "odd", "group": number // 2} for number in range(14)),
    {"id": "x", "prompt": "of no kind"},
]


def runs() -> list[dict[str, Any]]:
    """Return runs of two seeds; some failed, and facts have no answers."""
    random = Random(7)
    return [
        {
            "prompt_id": prompt["id"],
            "configuration": key,
            "seed": seed,
            "status": "error" if random.random() < 0.1 else "ok",
            "finish_reason": ("eos", "length")[(sum(map(ord, prompt["id"])) + seed) % 2],
            "correct": None if prompt["id"].startswith("fact") else random.random() < (0.8 if key == "normal" else 0.6),
            "disagreement": random.random() if key == KEY else 0.0,
            "mean_depth": (sum(map(ord, prompt["id"])) % 7 + seed) / 10,
            "macs_full": 100.0 + random.random(),
            "macs_executed": 90.0 + random.random() if key == KEY else None,
        }
        for prompt in PROMPTS
        for seed in (0, 1)
        for key in ("normal", KEY)
    ]


def test_each_kind_has_what_pairs_of_runs_say_of_its_prompts() -> None:
    rows, kind_of, unit_of = runs(), kinds(PROMPTS), sampling_units(PROMPTS)
    found = by_kind(pa.Table.from_pylist(rows), kind_of, unit_of)
    assert {key: list(of) for key, of in found.items()} == {key: ["fact", "odd", "sum"] for key in ("normal", KEY)}
    ok = pd.DataFrame(rows).query("status == 'ok'").set_index(["prompt_id", "seed"]).astype({"correct": float})
    mine, normal = (ok[ok.configuration == key] for key in (KEY, "normal"))
    normal_right = normal.correct.reindex(mine.index)
    of_runs = mine.assign(
        accuracy=mine.correct,
        cut=(mine.finish_reason == "length").where(mine.correct.notna()).astype(float),
        difference=mine.correct - normal_right,
        lost=((normal_right == 1) & (mine.correct == 0))
        .where(normal_right.notna() & mine.correct.notna())
        .astype(float),
    )
    of_prompts = of_runs.groupby("prompt_id").mean(numeric_only=True)
    of_units = of_prompts.groupby([of_prompts.index.map(kind_of), of_prompts.index.map(unit_of)]).mean()
    for kind in ("odd", "sum"):
        for name in ("accuracy", "cut", "difference", "lost", "disagreement", "mean_depth"):
            estimate, values = getattr(found[KEY][kind], name), of_units.loc[kind][name].dropna()
            assert (estimate.n, estimate.mean) == (len(values), pytest.approx(values.mean())), name
            assert len(values) >= MIN_SAMPLES
            assert estimate.low < estimate.mean < estimate.high
        run, full = (of_units.loc[kind][name].sum() for name in ("macs_executed", "macs_full"))
        assert found[KEY][kind].saved.mean == pytest.approx(1 - run / full)
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    facts = found[KEY]["fact"].as_dict()
    assert facts["accuracy"] == facts["cut"] == facts["difference"] == facts["lost"] == nothing
    assert found["normal"]["sum"].as_dict()["saved"] == nothing
    json.dumps(facts, allow_nan=False)


def test_without_normal_nothing_is_lost_to_it_and_nothing_differs_from_it() -> None:
    alone = pa.Table.from_pylist([row for row in runs() if row["configuration"] == KEY])
    [(key, of)] = by_kind(alone, kinds(PROMPTS), sampling_units(PROMPTS)).items()
    assert key == KEY
    assert of["sum"].lost.n == of["sum"].difference.n == 0 < of["sum"].accuracy.n


def test_where_all_failed_or_no_prompt_has_a_kind_there_is_nothing() -> None:
    failed = pa.Table.from_pylist([row | {"status": "error"} for row in runs()])
    assert by_kind(failed, kinds(PROMPTS), sampling_units(PROMPTS)) == {}
    assert by_kind(pa.Table.from_pylist(runs()), {}, sampling_units(PROMPTS)) == {}
    assert {*COLUMNS} == {*failed.column_names}
