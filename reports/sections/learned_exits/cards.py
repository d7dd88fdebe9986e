"""The cards of the artefacts that a sweep's exits were learned with, as tables.

`learned` in sweep.json holds the card of the artefact that was used in each role. All numbers of a card are of held-out
tokens, as the training computed them, without intervals. What a card lacks is missing in the tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

LENS: Final = "lens"
DIGEST_LETTERS: Final = 12  # of a digest that is shown
TEXTS: Final = ("readout", "rule", "kind", "when")  # all other columns of a card's tables are numbers
HELD_OUT: Final = ("layer", "readout", "agreement", "median_kl", "mean_kl")
TRADE_OFF: Final = (
    *("readout", "rule", "kl_factor", "mean_depth", "exit_rate", "agreement", "expected_kl"),
    *("control_agreement", "control_kl"),
)
PROBES: Final = ("layer", "kind", "rank_correlation", "rank_correlation_linear", "rank_correlation_mlp")
CALIBRATION: Final = ("layer", "kl_factor", "bin", "n", "predicted", "true")
EXITS: Final = ("kl_factor", "when", "layer", "n", "mean_kl", "median_kl", "agreement")
EVERYWHERE: Final = "all tokens"  # in place of a layer


@dataclass(frozen=True)
class Artefact:
    """What was trained, with the roles in which the sweep used it. `name` is unique in the sweep."""

    name: str
    roles: tuple[str, ...]
    digest: str
    card: Mapping[str, Any]
    names: Mapping[str, str]  # digest → name, of the artefacts of the sweep

    @property
    def data(self) -> Mapping[str, Any]:
        return self.card.get("data") or {}

    def rows(self, table: str, columns: Sequence[str]) -> pd.DataFrame:
        """A table of the card; unknown numbers are NaN and unknown texts are None. Readouts have their shown names."""
        frame = pd.DataFrame(list(self.card.get(table) or []), columns=list(columns))
        for name in columns:
            known = frame[name].astype(object)
            is_text = name in TEXTS
            frame[name] = (
                known.where(known.notna(), None) if is_text else pd.to_numeric(known, errors="coerce").astype(float)
            )
        if "readout" in columns:
            frame["readout"] = [self.readout_name(readout) for readout in frame["readout"]]
        return frame

    def readout_name(self, readout: str | None) -> str | None:
        """How a readout is shown: by its name, or for a digest by the name of the artefact or the digest's start."""
        if readout is None or not _is_digest(readout):
            return readout
        return self.names.get(readout) or short(readout)


def artefacts(about: Mapping[str, Any]) -> tuple[Artefact, ...]:
    """The artefacts of a sweep, from the content of its sweep.json. One that was used in two roles is there once."""
    digests = about.get("config", {}).get("digests") or {}
    found: list[tuple[Mapping[str, Any], list[str]]] = []
    for role, card in (about.get("learned") or {}).items():
        same = [roles for other, roles in found if other == card]
        if same:
            same[0].append(role)
        else:
            found.append((card, [role]))
    kinds = [str(card.get("what") or roles[0]) for card, roles in found]
    shown = [
        kind if kinds.count(kind) == 1 else f"{kind}, {' and '.join(roles)}"
        for kind, (_, roles) in zip(kinds, found, strict=True)
    ]
    digest_of = [str(digests.get(roles[0]) or card.get("digest") or "") for card, roles in found]
    names = {digest: kind for digest, kind in zip(digest_of, kinds, strict=True) if digest}
    return tuple(
        Artefact(name, tuple(roles), digest, card, names)
        for name, digest, (card, roles) in zip(shown, digest_of, found, strict=True)
    )


def held_out(artefact: Artefact) -> pd.DataFrame:
    """A row per layer and readout, what the artefact is compared with first; `series` is the readout."""
    frame = artefact.rows("held_out", HELD_OUT)
    frame = frame[frame["layer"].notna() & frame["readout"].notna()]
    return _ordered(frame.assign(series=frame["readout"]), baseline(frame["readout"]), "layer")


def trade_off(artefact: Artefact) -> pd.DataFrame:
    """A row per readout or rule and KL factor, with `layers_skipped` (1 − mean depth) and the control's values.

    `series` names what differs between the lines of the artefact's chart: the readout, the rule, or both.
    """
    frame = artefact.rows("trade_off", TRADE_OFF).rename(columns={"control_kl": "expected_kl_control"})
    frame = frame.rename(columns={"control_agreement": "agreement_control"})
    frame = frame[frame["mean_depth"].notna()]
    parts = [name for name in ("readout", "rule") if frame[name].nunique() > 1] or ["readout"]
    series = [" · ".join(str(part) for part in row if part) for row in frame[parts].itertuples(index=False)]
    frame = frame.assign(series=series, layers_skipped=1 - frame["mean_depth"])
    first = frame["series"].iloc[0] if parts != ["readout"] and len(frame) else baseline(frame["readout"])
    frame = _ordered(frame, first, "kl_factor")
    return frame.assign(label=[_number(k) for k in frame["kl_factor"]])


def probes(artefact: Artefact) -> pd.DataFrame:
    """A row per layer and kind of probe that was tried; `kept` marks the one that is used there."""
    wide = artefact.rows("probes", PROBES)
    rows: list[dict[str, Any]] = []
    for row in wide[wide["layer"].notna()].to_dict("records"):
        tried = {kind: row[f"rank_correlation_{kind}"] for kind in ("linear", "mlp")}
        kept = row["kind"]
        if kept and np.isnan(tried.get(kept, np.nan)):
            tried[kept] = row["rank_correlation"]
        rows += [
            {"layer": row["layer"], "series": kind, "rank_correlation": value, "kept": kind == kept}
            for kind, value in tried.items()
            if not np.isnan(value)
        ]
    frame = pd.DataFrame(rows, columns=["layer", "series", "rank_correlation", "kept"])
    frame["kept_words"] = ["yes" if kept else "no" for kept in frame["kept"]]
    return frame.sort_values(["layer", "series"], kind="stable").reset_index(drop=True)


def calibration(artefact: Artefact) -> pd.DataFrame:
    """A row per layer, KL factor and bin that has tokens, with `k`, the KL factor as text."""
    frame = artefact.rows("calibration", CALIBRATION).dropna(subset=["layer", "predicted", "true"])
    frame = frame[frame["n"] > 0].sort_values(["kl_factor", "layer", "bin"], kind="stable").reset_index(drop=True)
    labels = [_number(layer) for layer in frame["layer"]]
    return frame.assign(k=[_number(k) for k in frame["kl_factor"]], layer_label=labels)


def exits(artefact: Artefact) -> pd.DataFrame:
    """A row per KL factor, layer and time, before and after the training; `layer_label` is `EVERYWHERE` for all."""
    frame = artefact.rows("exits", EXITS)
    order = frame["layer"].fillna(np.inf)
    frame = frame.assign(order=order).sort_values(["kl_factor", "order"], kind="stable").reset_index(drop=True)
    final = (artefact.card.get("model") or {}).get("n_layers", 0) - 1
    labels = [
        EVERYWHERE if np.isnan(layer) else _number(layer) + (" (final)" if layer == final else "")
        for layer in frame["layer"]
    ]
    frame = frame.assign(k=[_number(k) for k in frame["kl_factor"]], layer_label=labels, series=frame["when"])
    return frame[frame["series"].notna()].drop(columns="order")


def baseline(readouts: pd.Series) -> str | None:
    """The readout that others are compared with: the lens if it is there, otherwise the first one."""
    names = readouts.dropna().unique().tolist()
    return LENS if LENS in names else names[0] if names else None


def series_of(frame: pd.DataFrame) -> list[str]:
    """The names of the lines of a chart, in the order of the rows."""
    return [str(name) for name in frame["series"].dropna().unique()]


def groups(frame: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """The rows of each value of a column with texts, in the order of the rows; those without one are together."""
    return {str(name): rows for name, rows in frame.groupby(column, sort=False, dropna=False)}


def nearest_to_one(labels: Sequence[str]) -> int:
    """The index of the KL factor that stands for all where only one is shown."""
    return min(range(len(labels)), key=lambda index: abs(float(labels[index]) - 1))


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:DIGEST_LETTERS]


def _is_digest(name: str) -> bool:
    letters = name.removeprefix("sha256:")
    return len(letters) >= 32 and all(letter in "0123456789abcdef" for letter in letters)


def _number(value: float) -> str:
    return f"{value:g}"


def _ordered(frame: pd.DataFrame, first: str | None, then: str) -> pd.DataFrame:
    """The rows sorted by series, `first` before all others in the order in which they come, and then by `then`."""
    names = frame["series"].unique().tolist()
    ranks = {name: (name != first, index) for index, name in enumerate(names)}
    order = sorted(range(len(frame)), key=lambda i: (ranks[frame["series"].iloc[i]], frame[then].iloc[i]))
    return frame.iloc[order].reset_index(drop=True)


def together(frames: Iterable[tuple[Artefact, pd.DataFrame]]) -> pd.DataFrame:
    """The tables of several artefacts as one, with the column `artefact`; empty if none has a row."""
    named = [frame.assign(artefact=artefact.name) for artefact, frame in frames if len(frame)]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame()
