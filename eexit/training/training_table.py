"""The closing table of a training, and the flags for its artefact."""

from typing import Final

from eexit.method.readouts import READOUTS
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, percent
from eexit.plan.artefacts import ADAPTER, FLAGS, GATE, KV_MAPS, PROBE, READOUT, ArtefactCard, CardRow

CAPTION: Final = (
    "By layer, % of tokens on which it says what full depth says; of a gate and a probe, % of tokens that they let "
    "through or stop / of the rule's own exits among these. Of KV maps, tokens leave at the layer or a later one."
)
USES: Final = {
    READOUT: "--readout {out}",
    PROBE: "--rules predicted_kl=0.5,1,2,4 --probe {out}",
    GATE: "--rules {rules} --gate {out} --gate-thresholds 0.05 0.1 0.2",
    KV_MAPS: "--modes mapped_residual --kv-maps {out}",
}


def training_table(card: ArtefactCard) -> ResultTable:
    """Return a card's table, with a column for each layer."""
    layers = list(dict.fromkeys(row.layer for row in card.table))
    table = ResultTable(CAPTION, title=f"{card.table[0].n:,} held-out tokens")
    table.add("key", "")
    table.add("number", "at", *(f"layer\n{layer}" for layer in layers))
    found = {(row.series, row.at, row.layer): row for row in card.table}
    for series, at in dict.fromkeys((row.series, row.at) for row in card.table):
        cells = [_cell(found[series, at, layer]) for layer in layers]
        table.add_in(series, series, "" if at is None else f"{at:g}", *cells)
    return table


def _cell(row: CardRow) -> str:
    if row.agreement is not None:
        return percent(row.agreement)
    taken, kept = (format_number(None if share is None else 100 * share, ".0f") for share in (row.taken, row.kept))
    return f"{taken} / {kept}"


def how_to_use(card: ArtefactCard, out: str) -> str:
    """Return a line with the flags by which a sweep uses the artefact."""
    parameters: dict[str, list[str]] = {}
    for key in card.settings.get("rules", ()):
        rule, _, parameter = key.partition("/")
        parameters.setdefault(rule, []).append(parameter)
    rules = " ".join(f"{rule}={','.join(of_rule)}" for rule, of_rule in parameters.items())
    flags = " ".join(USES[role].format(out=out, rules=rules) for role in card.holds)
    also = f", and with the {FLAGS[READOUT]} of this training" if card.readout not in READOUTS else ""
    also += f", and with its {FLAGS[ADAPTER]}" if card.adapter else ""
    return f"use it with: python jobs/sweep.py {flags}{also}"
