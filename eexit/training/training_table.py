"""Summary table of a training, and the command that uses its artefact."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, percent
from eexit.plan.artefacts import FLAGS, GATE, KV_MAPS, PROBE, ArtefactCard, CardRow
from eexit.plan.sweep_config import AUTO_DTYPE

CAPTION: Final = (
    "Readout: % of tokens with full depth's top token at this layer. Gate and probe: % of tokens that pass the gate or "
    "exit / % of the rule's exits among them. KV maps: % of tokens that equal full depth's, exiting at this layer or "
    "later."
)
# Flags that a sweep needs beside the artefact's own.
USES: Final[Mapping[str, Sequence[str]]] = {
    PROBE: ("--rules", "predicted_kl=0.5,1,2,4"),
    GATE: ("--gate-thresholds", "0.05", "0.1", "0.2"),
    KV_MAPS: ("--modes", "mapped_residual"),
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


def sweep_command(card: ArtefactCard, out: str, given: Sequence[str] = ()) -> str:
    """Return the command that sweeps the demo's prompts with the artefact in `out`.

    Args:
        card: the artefact's card.
        out: its folder.
        given: flags of the training that a sweep needs too, such as --readout and --use.
    """
    parameters: dict[str, list[str]] = {}
    for key in card.settings.get("rules", ()):
        rule, _, parameter = key.partition("/")
        parameters.setdefault(rule, []).append(parameter)
    rules = [f"{rule}={','.join(of_rule)}" for rule, of_rule in parameters.items()]
    words = ["eexit", "sweep", "--model", card.model["name"]]
    if card.model.get("revision"):
        words += ["--revision", card.model["revision"]]
    if card.dtype_asked not in ("", AUTO_DTYPE):
        words += ["--dtype", card.dtype_asked]
    if card.data.get("quantize"):
        words += ["--quantize", card.data["quantize"]]
    for role in card.holds:
        words += [FLAGS[role], out, *USES.get(role, ())]
    if rules:
        words += ["--rules", *rules]
    layers = ["--exit-layers", *map(str, card.layers)]
    return shlex.join([*words, *given, *layers, "--out", f"{out.rstrip('/')}-sweep"])
