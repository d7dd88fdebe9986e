"""The tables that end a training, and how to use what was trained."""

from typing import Any

from eexit.method.readouts import READOUTS
from eexit.output.result_table import ResultTable
from eexit.output.text import percent, written
from eexit.plan.artefacts import ADAPTER, FLAGS, GATE, PROBE, READOUT, STATE_MAPS, Card

SHOWN_THRESHOLDS = (0.05, 0.1, 0.2, 0.5)  # of a gate
USES = {
    READOUT: "--readout {out}",
    PROBE: "--rules predicted_kl=0.5,1,2,4 --probe {out}",
    ADAPTER: "--adapter {out}",
    GATE: "--rules {rules} --gate {out} --gate-thresholds 0.05 0.1 0.2",
    STATE_MAPS: "--modes mapped_residual --state {out}",
}


def training_tables(card: Card) -> list[ResultTable]:
    """Of held-out tokens: what layers say through each readout, how well probes rank, a student's exits, and so on."""
    tables = (
        (card.held_out, _layers), (card.probes, _probes), (card.exits, _exits), (card.gates, _gates),
        (card.learning, _learning), (card.state_exits, _states), (card.state_costs, _state_costs),
    )  # fmt: skip
    return [table(card) for rows, table in tables if rows]


def _layers(card: Card) -> ResultTable:
    readouts = list(dict.fromkeys(row["readout"] for row in card.held_out))
    table = ResultTable(title=f"{card.data['n_held_out_tokens']:,} held-out tokens")
    table.add("number", "layer")
    for readout in readouts:
        table.add("number", f"{readout}: as final", "median KL")
    rows = {(row["layer"], row["readout"]): row for row in card.held_out}
    for layer in card.layers:
        of_readouts = [rows[layer, readout] for readout in readouts]
        table.add_row(
            str(layer),
            *(text for row in of_readouts for text in (percent(row["agreement"]), written(row["median_kl"], ".3f"))),
        )
    return table


def _probes(card: Card) -> ResultTable:
    table = ResultTable(title="rank correlation of predicted and true KL")
    table.add("number", "layer", "linear", "mlp", "kept")
    for row in card.probes:
        figures = [row[f"rank_correlation_{kind}"] for kind in ("linear", "mlp")]
        table.add_row(str(row["layer"]), *("" if it is None else written(it, ".3f") for it in figures), row["kind"])
    return table


def _gates(card: Card) -> ResultTable:
    thresholds = [each for each in SHOWN_THRESHOLDS if any(row["threshold"] == each for row in card.gates)]
    caption = "Of a gate with each threshold: % of tokens that are read / of exits that are kept."
    table = ResultTable(caption, title=f"{card.data['n_held_out_tokens']:,} held-out tokens")
    table.add("key", "rule")
    table.add("number", "layer", "exits", *(f"{threshold:g}" for threshold in thresholds))
    found = {(row["rule"], row["layer"], row["threshold"]): row for row in card.gates}
    for rule, layer in dict.fromkeys((row["rule"], row["layer"]) for row in card.gates):
        rows = [found[rule, layer, threshold] for threshold in thresholds]
        shares = [" / ".join(_in_percent(row[name]) for name in ("read", "kept")) for row in rows]
        table.add_row(rule, str(layer), percent(rows[0]["exits"]), *shares)
    return table


def _in_percent(share: float | None) -> str:
    return written(None if share is None else 100 * share, ".0f")


def _exits(card: Card) -> ResultTable:
    table = ResultTable(title="at the exits of held-out tokens")
    table.add("number", "KL factor", "", "layer", "tokens", "mean KL", "as final")
    for row in card.exits:
        layer = "all" if row["layer"] is None else str(row["layer"])
        figures = [f"{row['n']:,}", written(row["mean_kl"], ".3f"), percent(row["agreement"])]
        table.add_row(f"{row['kl_factor']:g}", row["when"], layer, *figures)
    return table


def _learning(card: Card) -> ResultTable:
    """The learning curve: what layers say of held-out texts after more and more tokens."""
    last = [row for row in card.learning if row["layer"] is None][-1]
    pace = last["tokens"] / last["seconds"] if last["seconds"] else 0.0
    caption = (
        "How often the likeliest token at a layer, read through the training's readout, is full depth's without the "
        "adapter. Skipped: of all layers, if each token left at the first layer that says so. The learning rate falls "
        "to 0 at the end only, so that points before it are below what as many tokens alone would give. Learned from: "
        f"{written(pace, '.1f')} tokens/s; their products alone would have taken {percent(last['multiplying'])} of the "
        "time, at the speed at which this machine multiplies large matrices."
    )
    table = ResultTable(caption, title=f"{last['n']:,} held-out tokens")
    layers = list(dict.fromkeys(row["layer"] for row in card.learning if row["layer"] is not None))
    *exitable, final = layers
    table.add("number", "tokens", "minutes", *(f"layer\n{layer}" for layer in exitable), f"final,\n{final}", "skipped")
    found = {(row["tokens"], row["layer"]): row for row in card.learning}
    for tokens in dict.fromkeys(row["tokens"] for row in card.learning):
        whole = found[tokens, None]
        agreement = [percent(found[tokens, layer]["agreement"]) for layer in layers]
        table.add_row(f"{tokens:,}", written(whole["seconds"] / 60, ".1f"), *agreement, percent(whole["skipped"]))
    return table


def _states(card: Card) -> ResultTable:
    """What is no longer full depth's where tokens leave at the first layer that agrees with it."""
    caption = (
        "Tokens leave at the first layer of the exit set that says what full depth says, so that what is not full "
        "depth's is the state's doing. The last column is of the tokens that leave nowhere."
    )
    n_tokens, n_prompts = card.state_exits[0]["n"], card.state_exits[0]["n_prompts"]
    table = ResultTable(caption, title=f"{n_tokens:,} decided tokens of {n_prompts} held-out prompts")
    table.add("key", "exit set", "state")
    table.add("number", "round", "rank", "layers\nskipped", "not full\ndepth's", "95 %", "of those\nthat go on")
    for row in card.state_exits:
        ends = "–".join(percent(row[f"disagreement_{end}"]) for end in ("low", "high"))
        shares = percent(row["skipped"]), percent(row["disagreement"]), ends, percent(row["final_disagreement"])
        table.add_row(",".join(map(str, row["exits"])), *_state(row), *shares)
    return table


def _state_costs(card: Card) -> ResultTable:
    caption = "Millions of multiply-adds for the layers behind the exit, if a later token needs them all."
    table = ResultTable(caption, title="a token that leaves")
    table.add("number", "layer", "layers\nskipped", "full\ndepth", "frozen_\nresidual")
    table.add("key", "maps")
    table.add("number", "round", "rank", "mapped_\nresidual", "MB")
    for row in card.state_costs:
        full, frozen, mapped = (
            written(row[name] / 1e6, ".2f") for name in ("full_depth", "frozen_residual", "mapped_residual")
        )
        megabytes = written(row["bytes"] / 1e6, ".1f")
        table.add_row(str(row["layer"]), str(row["skipped"]), full, frozen, *_state(row), mapped, megabytes)
    return table


def _state(row: dict[str, Any]) -> tuple[str, str, str]:
    """A state in a table: the mode or the form of its maps, and their round and rank."""
    if row["form"] is None:
        return "frozen_residual", "", ""
    return row["form"], str(row["round"]), str(row["rank"] or "whole")


def how_to_use(card: Card, out: str) -> str:
    """A line of flags that a sweep uses the artefact with."""
    parameters: dict[str, list[str]] = {}
    for key in card.settings.get("rules", ()):
        rule, _, parameter = key.partition("/")
        parameters.setdefault(rule, []).append(parameter)
    rules = " ".join(f"{rule}={','.join(of_rule)}" for rule, of_rule in parameters.items())
    flags = " ".join(USES[role].format(out=out, rules=rules) for role in card.holds)
    also = f", and with the {FLAGS[READOUT]} of this training" if card.readout not in READOUTS else ""
    return f"use it with: python jobs/sweep.py {flags}{also}"
