"""The overview's section "Learned exits": training data of each artefact, and its quality on held-out prompts.

`learned` in sweep.json holds the card (`eexit.plan.artefacts.ArtefactCard`) of the artefact in each role. What a card
lacks is missing here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.output.text import pluralize, with_versions
from reports.read.sweep import Sweep
from reports.shared.charts import PERCENT, ROOM_PIXELS, ROWS, Columns, layered, with_tooltips
from reports.shared.figures import ChartVariant, Figure

CAPTION: Final = (
    "Up is better. As the training measured them on held-out prompts, without intervals. Readouts: tokens for which a "
    "layer predicts full depth's token. KV maps: tokens equal to full depth's if each exits at the first layer, from "
    "this one on, that predicts it. Gates and probes, at a threshold or KL factor: which of the rule's exits are "
    "kept; the table has the share of tokens that pass the gate or exit."
)
SHARE: Final = "Agreement, or exits kept (share)"
DIGEST_LETTERS: Final = 12  # shown of a digest
COLUMNS: Final[Columns] = (
    ("artefact", "Artefact", "text"),
    ("series", "What", "text"),
    ("at", "At", "real"),
    ("layer", "Layer", "count"),
    ("n", "n tokens", "count"),
    ("agreement", "Agreement", "share"),
    ("taken", "Pass or exit", "share"),
    ("kept", "Exits kept", "share"),
)


@dataclass(frozen=True)
class Artefact:
    """Trained artefact, with its role in the sweep."""

    role: str
    place: str
    digest: str
    card: Mapping[str, Any]

    @property
    def what(self) -> str:
        return str(self.card.get("what") or self.role)


def learned_section(sweep: Sweep) -> dict[str, Any] | None:
    """Return a chart with its table, and a description of each artefact; None for a sweep without artefacts."""
    used = artefacts(sweep.about)
    if not used:
        return None
    rows = card_rows(used)
    variants = [ChartVariant(name, _chart(rows[rows["artefact"] == name])) for name in dict.fromkeys(rows["artefact"])]
    figure = Figure("learned", "Learned exits, by layer", CAPTION, variants, rows, COLUMNS, choice="Artefact")
    return {
        "about": "Training of the sweep's readouts, probes, gates and KV maps; the charts above are of its runs.",
        "artefacts": [{"summary": _summary(artefact), "facts": _facts(artefact)} for artefact in used],
        "charts": [figure.data] if variants else [],
    }


def artefacts(about: Mapping[str, Any]) -> list[Artefact]:
    """Return the artefacts of a sweep, from the content of its sweep.json."""
    config = about.get("config", {})
    digests = config.get("digests") or {}
    return [
        Artefact(role, str(config.get(role) or ""), str(digests.get(role) or "")[:DIGEST_LETTERS], card)
        for role, card in (about.get("learned") or {}).items()
    ]


def card_rows(used: Sequence[Artefact]) -> pd.DataFrame:
    """Return the tables of all cards as one. `label` names a line of the chart, and `share` is its value."""
    keys = [key for key, _, _ in COLUMNS]
    given = [{"artefact": artefact.what, **row} for artefact in used for row in artefact.card.get("table") or []]
    rows = pd.DataFrame(given, columns=keys)
    for key, _, form in COLUMNS:
        if form != "text":
            rows[key] = pd.to_numeric(rows[key], errors="coerce").astype(float)
    label = rows["series"].where(rows["at"].isna(), rows["series"] + " at " + rows["at"].map("{:g}".format))
    rows = rows.assign(label=label, share=rows["agreement"].fillna(rows["kept"]))
    return rows[rows["share"].notna()].reset_index(drop=True)


def trained(about: Mapping[str, Any], role: str) -> str:
    """Return the artefact in this role with its folder and digest, or the plain name in the configuration."""
    for artefact in artefacts(about):
        if artefact.role == role:
            return f"{artefact.what} ({', '.join(filter(None, [artefact.place, artefact.digest]))})"
    return str(about.get("config", {}).get(role) or "")


def _chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Return a line along the layers for each readout, rule or mode."""
    name, labels = rows["artefact"].iloc[0], list(dict.fromkeys(rows["label"]))
    x = alt.X(
        "layer:Q",
        title="Layer",
        axis=alt.Axis(values=sorted(rows["layer"].unique().tolist()), format="d", grid=False),
        scale={"zero": False, "nice": False, "padding": ROOM_PIXELS},
    )
    y = alt.Y("share:Q", title=SHARE, axis=PERCENT, scale={"zero": True, "nice": False, "padding": ROOM_PIXELS})
    chart = alt.Chart(ROWS).transform_filter(f"datum.artefact === {json.dumps(name)}")
    base, tooltip = with_tooltips(chart, COLUMNS, rows)
    base = base.encode(x=x, y=y, color=alt.Color("label:N", title=None, scale={"domain": labels, "range": "ordinal"}))
    shape = alt.Shape("label:N", title=None, scale={"domain": labels})
    points = base.mark_point(filled=True, size=80, opacity=1).encode(shape=shape, tooltip=tooltip)
    return layered(base.mark_line(aria=False, opacity=0.7), points, description=f"{name} by layer. {CAPTION}")


def _summary(artefact: Artefact) -> str:
    """Return one line, which opens to the facts."""
    data = _data(artefact, "")
    parts = [artefact.what, f"fitted to {data}" if data else "", f"digest {artefact.digest}" if artefact.digest else ""]
    return " · ".join(filter(None, parts))


def _facts(artefact: Artefact) -> list[tuple[str, str]]:
    """Return the facts that a card records, as labels and texts."""
    card = artefact.card
    model, rules = card.get("model") or {}, (card.get("settings") or {}).get("rules") or []
    found = [
        ("Used as", artefact.role),
        ("Fitted to", _data(artefact, "")),
        ("Texts", str((card.get("data") or {}).get("sweep") or "")),
        ("Held out", _data(artefact, "held_out_")),
        ("Model", " ".join(str(model[name]) for name in ("name", "revision", "dtype") if model.get(name))),
        ("Layers", ", ".join(map(str, card.get("layers") or []))),
        ("Read through", str(card.get("readout") or "")[:DIGEST_LETTERS]),
        ("Rules", " ".join(rules)),
        ("Made", str(card.get("made") or "").replace("T", " ").replace("+00:00", " UTC")),
        ("Versions", with_versions(card.get("versions") or {})),
    ]
    return [(label, text) for label, text in found if text]


def _data(artefact: Artefact, part: str) -> str:
    data = artefact.card.get("data") or {}
    counts = [(data.get(f"n_{part}tokens"), "token"), (data.get(f"n_{part}prompts"), "prompt")]
    return " of ".join(pluralize(int(n), name) for n, name in counts if n)
