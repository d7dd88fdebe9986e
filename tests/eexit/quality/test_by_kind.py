"""Effects of settings on kinds of prompts, against the same in pandas."""

import pandas as pd
import pyarrow as pa
import pytest
from answered_runs import KEY, KIND_OF, ORACLE, UNIT_OF, runs

from eexit.quality.by_kind import COLUMNS, by_kind


def test_kinds_have_the_effects_of_their_prompts_pairs_of_runs() -> None:
    found = by_kind(pa.Table.from_pylist(runs()).select(COLUMNS), KIND_OF, UNIT_OF)
    assert ({*found}, {(*of,) for of in found.values()}) == ({"normal", KEY, ORACLE}, {("fact", "odd", "sum")})
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
    assert found[ORACLE]["sum"].as_dict()["saved"] == nothing
    alone = pa.Table.from_pylist([row for row in runs() if row["configuration"] == KEY])  # without runs of normal
    [of] = by_kind(alone, KIND_OF, UNIT_OF).values()
    assert of["sum"].lost.n == of["sum"].difference.n == 0 < of["sum"].accuracy.n
    failed = pa.Table.from_pylist([row | {"status": "error"} for row in runs()])
    assert by_kind(failed, KIND_OF, UNIT_OF) == by_kind(alone, {}, UNIT_OF) == {}
