"""What learning changed, as sentences computed from the artefacts' cards, and where it does not help."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.messages.wording import counted
from eexit.messages.written import percent
from eexit.plan.artefacts import ADAPTER, PROBE
from reports.frames.learned import (
    EVERYWHERE,
    LENS,
    Artefact,
    calibration,
    exits,
    groups,
    held_out,
    nearest_to_one,
    probes,
    series_of,
    trade_off,
)
from reports.sections.findings.artefacts import basis
from reports.sections.findings.sweep import is_known

CLOSE: Final = 1e-3  # differences of shares and of nats that are not worth a sentence
Row = dict[Any, Any]


def learned_findings(artefact: Artefact) -> list[str]:
    """A sentence or two on each thing that the card has numbers of."""
    found = [*_readouts(artefact), *_at_equal_depth(artefact), *_rules(artefact), *_beside_controls(artefact)]
    if PROBE in artefact.roles:
        found += [" ".join([*_ranks(artefact), *_calibrated(artefact)])]
    if ADAPTER in artefact.roles:
        found += _exits(artefact)
    return [sentence for sentence in found if sentence]


def _readouts(artefact: Artefact) -> Iterator[str]:
    frame = held_out(artefact)
    first, *learned = series_of(frame) or [""]
    for name in learned:
        readout, base = (frame[frame["series"] == series].set_index("layer") for series in (name, first))
        gain = (readout["agreement"] - base["agreement"]).dropna()
        if gain.empty:
            continue
        layer: Any = gain.idxmax()
        n = f" (n = {basis(artefact)})" if basis(artefact) else ""
        kl = ""
        if is_known(readout["median_kl"][layer]) and is_known(base["median_kl"][layer]):
            kl = f"; the median KL is {_nats(readout['median_kl'][layer])} instead of {_nats(base['median_kl'][layer])}"
        said = (
            f"At layer {layer:g} {_named(name)} names the final layer's token for "
            f"{percent(readout['agreement'][layer])} of held-out tokens, "
            f"{_named(first)} for {percent(base['agreement'][layer])}{kl}{n}."
        )
        kl_gain = (base["median_kl"] - readout["median_kl"]).dropna()
        yield f"{said} {_not_everywhere(gain, kl_gain)}"


def _not_everywhere(gain: pd.Series, kl_gain: pd.Series) -> str:
    """Where agreement is not higher and the median KL not lower, by layer."""
    agreement, kl = ([layer for layer, value in gains.items() if value <= CLOSE] for gains in (gain, kl_gain))
    known = ["agreement", "median KL"][: 2 if len(kl_gain) else 1]
    if not agreement and not kl:
        return f"It helps at every layer, in {' and '.join(known)}."
    parts = [f"agreement is no higher {_at(agreement, len(gain))}"] if agreement else []
    parts += [f"the median KL is no lower {_at(kl, len(kl_gain))}"] if kl else []
    return f"It does not help everywhere: {' and '.join(parts)}."


def _at_equal_depth(artefact: Artefact) -> Iterator[str]:
    """The readouts of a trade-off at the same depth, interpolated between KL factors."""
    frame = trade_off(artefact)
    if frame["rule"].nunique() > 1:
        return
    first, *learned = series_of(frame) or [""]
    base = _line(frame, first)
    for name in learned:
        line = _line(frame, name)
        depths = line["layers_skipped"].between(base["layers_skipped"].min(), base["layers_skipped"].max())
        shared = line[depths & line["agreement"].notna()]
        if shared.empty:
            yield (
                f"{_begun(name)} and {_named(first)} skip no like share of layers at these KL factors, so that their "
                "agreement can't be compared at equal depth."
            )
            continue
        base_agreement = np.interp(shared["layers_skipped"], base["layers_skipped"], base["agreement"])
        nearest = nearest_to_one(shared["label"].tolist())
        row, beside = shared.iloc[nearest], base_agreement[nearest]
        less = [
            percent(share)
            for share in shared["layers_skipped"][shared["agreement"].to_numpy() <= base_agreement + CLOSE]
        ]
        said = (
            f"Where {percent(row['layers_skipped'])} of the layers are skipped, {_named(name)} would "
            f"agree with the final layer on {percent(row['agreement'])} of held-out tokens, {_named(first)} on "
            f"{percent(beside)} (teacher-forced, interpolated between KL factors)."
        )
        yield said + (f" It does not help where {', '.join(less)} are skipped." if less else "")


def _rules(artefact: Artefact) -> Iterator[str]:
    """The rules of a trade-off at the same KL factor, the one nearest to 1 that all have."""
    frame = trade_off(artefact)
    frame = frame[frame["rule"].notna() & frame["agreement"].notna()]
    for rows in groups(frame, "readout").values():
        by_rule = {rule: of_rule.set_index("label") for rule, of_rule in groups(rows, "rule").items()}
        if len(by_rule) < 2:
            continue
        common = [label for label in rows["label"].unique() if all(label in of.index for of in by_rule.values())]
        if common:
            k = common[nearest_to_one(common)]
            parts = [
                f"{rule} would skip {percent(of.loc[k, 'layers_skipped'])} of the layers and agree with "
                f"the final layer on {percent(of.loc[k, 'agreement'])} of held-out tokens"
                for rule, of in by_rule.items()
            ]
            yield f"At KL factor {k}, {'; '.join(parts)} (teacher-forced)."


def _beside_controls(artefact: Artefact) -> Iterator[str]:
    """The learned exits that agree no more often than random ones at the same depths."""
    frame = trade_off(artefact)
    first = series_of(frame)[:1]
    known = frame[frame["agreement_control"].notna() & ~frame["series"].isin(first)]
    worse = known[known["agreement"] <= known["agreement_control"] + CLOSE]
    for name, rows in groups(worse, "series").items():
        factors = ", ".join(rows["label"])
        yield f"{name} does not help at KL factor {factors}: random exits at the same depths agree as often."


def _ranks(artefact: Artefact) -> Iterator[str]:
    frame = probes(artefact)
    kept = frame[frame["kept"] & frame["rank_correlation"].notna()]
    if kept.empty:
        return
    ordered = kept.sort_values("rank_correlation", kind="stable")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    ends = f"from {low['rank_correlation']:.2f} (layer {low['layer']:g}) to {high['rank_correlation']:.2f} (layer "
    ends += f"{high['layer']:g})"
    if low["layer"] == high["layer"]:
        ends = f"{low['rank_correlation']:.2f} (layer {low['layer']:g})"
    yield f"The probe's rank correlation with the true KL is {ends}."


def _calibrated(artefact: Artefact) -> Iterator[str]:
    frame = calibration(artefact)
    if frame.empty:
        return
    k = list(dict.fromkeys(frame["k"]))
    rows = frame[frame["k"] == k[nearest_to_one(k)]]
    apart = rows.assign(apart=(rows["predicted"] - rows["true"]).abs() * rows["n"])
    by_layer = apart.groupby("layer")[["apart", "n"]].sum()
    errors = 100 * by_layer["apart"] / by_layer["n"]
    n = rows["n"].sum()
    bias = float(100 * ((rows["predicted"] - rows["true"]) * rows["n"]).sum() / n)
    off = f"{abs(bias):.1f} points too {'high' if bias > 0 else 'low'}" if abs(bias) >= 0.05 else "right"
    yield (
        f"At KL factor {rows['k'].iloc[0]} its stop chance is off by {100 * apart['apart'].sum() / n:.1f} points on "
        f"average over bins (most at layer {errors.idxmax():g}: {errors.max():.1f}), and its mean is {off}."
    )


def _exits(artefact: Artefact) -> Iterator[str]:
    """What training changed in the mean KL at the exits, at the KL factor nearest to 1, then in short at the others."""
    frame = exits(artefact)
    known = frame[frame["mean_kl"].notna()]
    changes = {
        k: rows.pivot_table(index="layer_label", columns="when", values="mean_kl", sort=False)
        for k, rows in groups(known, "k").items()
    }
    changes = {k: table.dropna() for k, table in changes.items() if {"before", "after"} <= set(table.columns)}
    changes = {k: table for k, table in changes.items() if EVERYWHERE in table.index}
    if not changes:
        return
    standing = list(changes)[nearest_to_one(list(changes))]
    was, is_now = (float(changes[standing][when][EVERYWHERE]) for when in ("before", "after"))
    counts = known.loc[(known["k"] == standing) & (known["layer_label"] == EVERYWHERE), "n"].dropna()
    n = f" (n = {counted(int(counts.iloc[-1]), 'held-out token')})" if len(counts) else ""
    lowers = is_now < was - CLOSE
    said = (
        f"At KL factor {standing}, training {'lowers' if lowers else 'does not lower'} the mean KL of what tokens "
        f"are read from: {_nats(was)} before, {_nats(is_now)} after{n}."
    )
    by_layer = changes[standing].drop(index=EVERYWHERE)
    worse = by_layer.index[by_layer["after"] >= by_layer["before"] - CLOSE].tolist()
    if worse and lowers:
        said += f" It does not fall {_at(worse, len(by_layer))}."
    others = [
        f"{table['before'][EVERYWHERE]:.3g} and {table['after'][EVERYWHERE]:.3g} at KL factor {k}"
        for k, table in changes.items()
        if k != standing
    ]
    yield said + (f" Before and after, it is {', '.join(others)}." if others else "")


def _line(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frame[(frame["series"] == name) & frame["agreement"].notna()].sort_values("layers_skipped")


def _at(layers: Sequence[Any], of: int) -> str:
    names = [f"{layer:g}" if isinstance(layer, float) else str(layer) for layer in layers]
    if len(names) == of:
        return "at any layer"
    if len(names) == 1:
        return f"at layer {names[0]}"
    return f"at layers {', '.join(names[:-1])} and {names[-1]}"


def _named(readout: str) -> str:
    return f"the {readout}" if readout == LENS else f"the {readout} readout"


def _begun(readout: str) -> str:
    return _named(readout).replace("the", "The", 1)


def _nats(value: float) -> str:
    return f"{value:.3g} nats"
