"""Redefined rules and modes: results of both texts stay, are told apart, and only what has to run needs a function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from byte_model import save_byte_model
from chart_fields import content_of
from commands import here

import eexit
from eexit.method.custom import digest_of, text_of
from eexit.plan.configuration import EarlyExit, renamed, renamed_key, short_name
from eexit.results.shown_names import with_shown_names
from jobs import replay
from reports.read.sweep import read_sweep

PROMPTS = ["Why?", "Count to ten."]
GRID: dict[str, Any] = {
    "modes": ["normal", "frozen_residual"], "exit_every": 2, "max_new_tokens": 4, "quiet": True, "dtype": "float32",
}  # fmt: skip


def at_least() -> Any:
    @eexit.rule(parameter="probability")
    def ratio(layer: Any, parameter: Any) -> Any:
        """exits where the likeliest token is at least so probable"""
        return layer.top2_prob[:, 0] >= parameter

    return ratio


def at_most() -> Any:
    @eexit.rule(parameter="probability")
    def ratio(layer: Any, parameter: Any) -> Any:
        return layer.top2_prob[:, 0] <= parameter

    return ratio


def shown(rule: Any) -> str:
    """Return the name of the rule's results once it was redefined."""
    return f"ratio~{digest_of(text_of(rule.function))[:6]}"


def by_key(sweep: eexit.SweepResults) -> dict[Any, str]:
    """Return the text of each configuration and prompt."""
    return sweep.runs.set_index(["configuration", "prompt_id"])["text"].to_dict()


@pytest.mark.usefixtures("ray_here")
def test_a_redefined_rule_keeps_its_earlier_results(tmp_path: Path, own_exits: Callable[[], None]) -> None:
    out, first = tmp_path / "out", at_least()
    save_byte_model(tiny := tmp_path / "tiny")

    def swept(prompts: Any = PROMPTS, **rules: Any) -> eexit.SweepResults:
        return eexit.sweep(prompts, model=tiny, out=out, rules=rules, **GRID)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (out / "generations").iterdir()}

    texts = by_key(swept(ratio=[0.0, 0.9], confidence=[0.5]))
    stored = files()

    # 1. The corrected rule runs; the earlier results are untouched, and have a name of their own everywhere.
    second, earlier = at_most(), shown(first)
    grown = swept(ratio=[0.9])
    keys = ["normal", "frozen_residual/ratio/0.9", "frozen_residual/confidence/0.5"]
    keys += [f"frozen_residual/{earlier}/{at}" for at in ("0", "0.9")]
    assert [each.key for each in grown.configurations] == keys
    assert grown.runs.groupby("configuration").size().to_dict() == dict.fromkeys(keys, 2)
    assert {*grown.tokens["rule"].dropna()} == {"confidence", "ratio", earlier}
    for (key, prompt), text in texts.items():
        assert by_key(grown)[key.replace("/ratio/", f"/{earlier}/"), prompt] == text
    assert files().items() >= stored.items()
    assert grown.manifest.config["shown_names"] == {"ratio": earlier, shown(second): "ratio"}
    assert {*pd.read_parquet(out / "generations")["rule"].dropna()} == {"confidence", "ratio", shown(second)}
    assert all(key in str(grown.table) or short_name(key) in str(grown.table) for key in keys)
    definition = content_of(grown.report())["rules"][earlier]["definition"]
    assert definition == "exits where the likeliest token is at least so probable"
    read = read_sweep(str(out))
    assert (sorted({*read.generations["configuration"]}), read.missing) == (sorted(keys), [])

    # 2. A fresh kernel goes on without the function, but for runs of the rule; the earlier text never runs again.
    own_exits()
    assert len(swept(confidence=[0.5, 0.6]).runs) == 2 * 6
    with pytest.raises(ValueError, match="has rule ratio of a user's own, whose text is stored and not run"):
        swept([*PROMPTS, "No"], confidence=[0.5])
    assert here(replay.main, out, "--texts-of", keys[-1], "--rules", "margin=0.1", "--quiet").returncode == 0
    second = at_most()
    more = swept([*PROMPTS, "No"], ratio=[0.9])
    assert more.runs.groupby("configuration").size().to_dict() == {
        **dict.fromkeys([*keys, "frozen_residual/confidence/0.6"], 3), **dict.fromkeys(keys[-2:], 2),
    }  # fmt: skip
    assert "Unfinished" not in str(more.table)
    assert "frozen_residual/ratio~" not in " ".join(read_sweep(str(out)).missing)

    # 3. Rows of studies are stored by the names in files.
    assert {*pd.read_parquet(out / "replays")["text_of"]} == {"frozen_residual/ratio/0.9"}
    assert {*read_sweep(str(out)).studies["replays"]["text_of"]} == {keys[-1]}

    # 4. The first text given again is `ratio` again, and what was run of it is not run again.
    first, n_files = at_least(), len(files())
    back = swept([*PROMPTS, "No"], ratio=[0.0, 0.9])
    assert {*back.runs["rule"].dropna()} == {"confidence", "ratio", shown(second)}
    assert by_key(back).items() >= texts.items()
    assert len(files()) == n_files + 1, "the third prompt's runs"

    # 5. Configurations are removed by the names that are shown.
    gone = [f"frozen_residual/{shown(second)}/0.9", "frozen_residual/ratio/0.9"]
    left = {each.key for each in back.configurations} - {*gone}
    back.remove(gone)
    opened = eexit.open(out)
    assert {each.key for each in opened.configurations} == {*opened.runs["configuration"]} == left
    assert (bool(opened.manifest.own), opened.progress()) == (True, "")


NAMES = {"ratio": "ratio~ba9c4d", "ratio~77aa01": "ratio", "own": "own~123456"}


def test_keys_and_names_are_renamed_as_wholes() -> None:
    for stored, as_shown in (
        ("own/ratio/1e-05@20,25+gate0.3", "own~123456/ratio~ba9c4d/1e-05@20,25+gate0.3"),
        ("skip/ratio~77aa01", "skip/ratio"),
        ("skip/random/own/ratio/2", "skip/random/own~123456/ratio~ba9c4d/2"),
        ("ratio", "ratio~ba9c4d"),
        ("skip/ratios/2", "skip/ratios/2"),
        (None, None),
    ):
        keys, texts = pa.chunked_array([[stored], ["normal", stored]], pa.string()), ["ratio"] * 3
        found = with_shown_names(pa.table({"configuration": keys, "text": texts}), NAMES).to_pydict()
        assert found == {"configuration": [as_shown, "normal", as_shown], "text": texts}
    each = EarlyExit("own", "ratio", 2.0, (20, 25), "0.3")
    assert renamed(each, NAMES).key == renamed_key(each.key, NAMES)
