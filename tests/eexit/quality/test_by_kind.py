"""Effects of settings on kinds of prompts, against the same in pandas."""

from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS, by_kind

KEY = "skip/kl/1"
# Two kinds by their ids; one by its name, two prompts of which are a group; and one prompt of no kind.
PROMPTS: list[dict[str, Any]] = [
    *({"id": f"sum-{number}", "prompt": f"{number}?"} for number in range(8)),
    *({"id": f"fact-{number}", "prompt": f"fact {number}"} for number in range(6)),
    *({"id": f"{number}", "prompt": f"other {number}", "kind": "odd", "group": number // 2} for number in range(14)),
    {"id": "x", "prompt": "of no kind"},
]
KIND_OF, UNIT_OF = kinds(PROMPTS), sampling_units(PROMPTS)


def runs() -> list[dict[str, Any]]:
    """Return runs of two seeds; some failed, and facts have no answers."""
    random = Random(7)
    return [
        {
            "prompt_id": prompt["id"], "configuration": key, "seed": seed,
            "status": "error" if random.random() < 0.1 else "ok",
            "finish_reason": ("eos", "length")[(sum(map(ord, prompt["id"])) + seed) % 2],
            "correct": None if prompt["id"].startswith("fact") else random.random() < (0.8 if key == "normal" else 0.6),
            "disagreement": random.random() if key == KEY else 0.0,
            "mean_depth": (sum(map(ord, prompt["id"])) % 7 + seed) / 10,
            "macs_full": 100.0 + random.random(),
            "macs_executed": 90.0 + random.random() if key == KEY else None,
        }
        for prompt in PROMPTS for seed in (0, 1) for key in ("normal", KEY)
    ]  # fmt: skip


def test_kinds_have_the_effects_of_their_prompts_pairs_of_runs() -> None:
    found = by_kind(pa.Table.from_pylist(runs()), KIND_OF, UNIT_OF)
    assert {key: list(of) for key, of in found.items()} == {key: ["fact", "odd", "sum"] for key in ("normal", KEY)}
    ok = pd.DataFrame(runs()).query("status == 'ok'").set_index(["prompt_id", "seed"]).astype({"correct": float})
    mine, normal = (ok[ok.configuration == key] for key in (KEY, "normal"))
    right, normal_right = mine.correct, normal.correct.reindex(mine.index)
    of_runs = mine.assign(
        accuracy=right,
        cut=(mine.finish_reason == "length").where(right.notna()).astype(float),
        difference=right - normal_right,
        lost=((normal_right == 1) & (right == 0)).where(normal_right.notna() & right.notna()).astype(float),
    )
    of_prompts = of_runs.groupby("prompt_id").mean(numeric_only=True)
    of_units = of_prompts.groupby([of_prompts.index.map(KIND_OF), of_prompts.index.map(UNIT_OF)]).mean()
    for kind in ("odd", "sum"):
        for name in ("accuracy", "cut", "difference", "lost", "disagreement", "mean_depth"):
            estimate, values = getattr(found[KEY][kind], name), of_units.loc[kind][name].dropna()
            assert (estimate.n, estimate.mean) == (len(values), pytest.approx(values.mean())), name
            assert estimate.low < estimate.mean < estimate.high
        run, full = (of_units.loc[kind][name].sum() for name in ("macs_executed", "macs_full"))
        assert found[KEY][kind].saved.mean == pytest.approx(1 - run / full)
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    facts = found[KEY]["fact"].as_dict()
    assert facts["accuracy"] == facts["cut"] == facts["difference"] == facts["lost"] == nothing
    assert found["normal"]["sum"].as_dict()["saved"] == nothing
    alone = pa.Table.from_pylist([row for row in runs() if row["configuration"] == KEY])  # without runs of normal
    [of] = by_kind(alone, KIND_OF, UNIT_OF).values()
    assert of["sum"].lost.n == of["sum"].difference.n == 0 < of["sum"].accuracy.n
    failed = pa.Table.from_pylist([row | {"status": "error"} for row in runs()])
    assert by_kind(failed, KIND_OF, UNIT_OF) == by_kind(alone, {}, UNIT_OF) == {}
    assert {*COLUMNS} == {*failed.column_names}
