"""The sections of FINDINGS.md on what exits leave behind: the same settings in several states, and maps."""

from typing import Any, Final

import numpy as np

from eexit.results.study_tables import REPLAYS
from findings.parts import gained_and_lost, sweep
from findings.study import MAPPED, MAPS, PILOT, TRIED, StudySweep, card
from findings.words import percent_of, share_of, table_of

_MODES: Final = ("unfrozen", "frozen_residual", "mapped_residual")
SHAPES: Final = (  # of models whose MLPs are gated: width, width of all keys, inner width
    ("SmolLM2-135M", 576, 192, 1536),
    ("Qwen2.5-0.5B", 896, 128, 4864),
    ("Llama-3.2-1B", 2048, 512, 8192),
    ("Llama-3-8B", 4096, 1024, 14336),
)


def pilot() -> str:
    """Settings that differ in the state alone stand beside each other."""
    replayed = {row["configuration"]: row for row in REPLAYS.rows(sweep(PILOT).finished.store)}
    found = {key: sweep(name) for name in (PILOT, MAPPED, *TRIED) for key in sweep(name).settings}
    keys = sorted(found, key=lambda key: (key.partition("/")[2], _MODES.index(key.partition("/")[0])))
    rows = [_settings_row(found[key], key, replayed.get(f"unfrozen/{key.partition('/')[2]}")) for key in keys]
    heads = ["setting", "layers skipped", "disagreement", "replayed", "gained, lost", "lost", "saved"]
    return f"""
## Three states, the same prompts

{sweep(PILOT).n_prompts} prompts, float32, all read through `linear`; those that decide, on `screen:32:256`. Replayed:
the disagreement on full depth's own texts, where the state is exact. An oracle's tokens are full depth's, so that what
it loses is the state's alone.

{table_of(heads, rows)}
"""


def maps() -> str:
    """What the maps' card says, of texts that they were not fitted to."""
    found = card(MAPS)
    by_set: dict[str, dict[str, Any]] = {}
    for row in found["state_exits"]:
        name = f"`{row['mode']}`" if row["form"] is None else f"{row['form']}, round {row['round']}"
        by_set.setdefault(", ".join(map(str, row["exits"])), {})[name] = row
    names = list(next(iter(by_set.values())))
    rows = [
        [exits, percent_of(of_set[names[0]]["skipped"]), f"{of_set[names[0]]['n_final']:,}",
         *(percent_of(of_set[name]["final_disagreement"]) for name in names)]
        for exits, of_set in by_set.items()
    ]  # fmt: skip
    dear = {row["form"]: row for row in found["state_costs"] if row["layer"] == min(found["layers"])}
    share = {form: row["mapped_residual"] / row["full_depth"] for form, row in dear.items()}
    return f"""
## What the maps are worth

Tokens leave where the oracle `agree` would, and the texts are full depth's own: of the tokens that go on to the last
layer, as many are then not full depth's. `streams` maps to the stream that enters a layer, `keys` to its keys and
values; a second round is fitted to runs in which the first one's maps had filled in. Fitted to
{found["data"]["n_tokens"]:,} tokens, measured on {found["data"]["n_held_out_prompts"]} other prompts.

{table_of(["exit layers", "layers skipped", "tokens", *names], rows)}

What a token that leaves at layer {min(found["layers"])} costs behind it, if a later token needs all layers: with `keys`
{percent_of(share["keys"])} of what the layers themselves would take, which is what `frozen_residual` takes; with
`streams` {percent_of(share["streams"])}. At the shapes of larger models:

{table_of(["model", "a layer", "keys and values", "by `streams`"], [_at_shape(*shape) for shape in SHAPES])}

In millions of multiply-adds for a token and a layer; by `keys`, keys and values cost what they do anyway. Both are
less than the layer, so that no number of skipped layers is too small for a map to be cheaper than to run them.
"""


def _settings_row(each: StudySweep, key: str, replayed: dict[str, Any] | None) -> list[str]:
    saved = each.saved(key)
    return [
        f"`{key}`", share_of(each.skipped(key)), share_of(each.disagreement(key)),
        percent_of(replayed["expected_disagreement"]) if replayed else "",
        gained_and_lost(each.beside_normal(key)), share_of(each.lost(key)),
        share_of(saved) if np.isfinite(saved.mean) else "",
    ]  # fmt: skip


def _at_shape(model: str, width: int, keys: int, inner: int) -> list[str]:
    """Multiply-adds of a layer with gated MLPs, and of what stands for it past an exit."""
    own = 2 * width * keys  # a key and a value
    layer = 2 * width**2 + own + 3 * width * inner
    return [model, *(f"{each / 1e6:.2f}" for each in (layer, own, own + width**2))]
