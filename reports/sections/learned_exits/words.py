"""What learning changed, as sentences computed from the artefacts' cards, and where it does not help."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.output.text import counted, percent
from eexit.plan.artefacts import ADAPTER, PROBE
from reports.sections.learned_exits import cards
from reports.sections.learned_exits.artefacts import basis

CLOSE: Final = 1e-3  # differences of shares and of nats that are not worth a sentence


def learned_findings(artefact: cards.Artefact) -> list[str]:
    """A sentence or two on each thing that the card has numbers of."""
    found = [*_readouts(artefact), *_at_equal_depth(artefact), *_rules(artefact), *_beside_controls(artefact)]
    if PROBE in artefact.roles:
        found += [" ".join([*_ranks(artefact), *_calibrated(artefact)])]
    if ADAPTER in artefact.roles:
        found += _exits(artefact)
    return [sentence for sentence in found if sentence]


def _readouts(artefact: cards.Artefact) -> Iterator[str]:
    frame = cards.held_out(artefact)
    first, *learned = cards.series_of(frame) or [""]
    for name in learned:
        readout, base = (frame[frame["series"] == series].set_index("layer") for series in (name, first))
        gain = (readout["agreement"] - base["agreement"]).dropna()
        if gain.empty:
            continue
        layer: Any = gain.idxmax()
        share, base_share = (percent(its["agreement"][layer]) for its in (readout, base))
        said = (
            f"At layer {layer:g}, {_named(name)} names the final layer's token for {share} of held-out tokens, "
            f"{_named(first)} for {base_share} (n = {basis(artefact) or 'unknown'})."
        )
        yield " ".join([said, *_not_everywhere(gain, (base["median_kl"] - readout["median_kl"]).dropna())])


def _not_everywhere(gain: pd.Series, kl_gain: pd.Series) -> Iterator[str]:
    """Where agreement is not higher and the median KL not lower, by layer."""
    agreement, kl = ([layer for layer, value in gains.items() if value <= CLOSE] for gains in (gain, kl_gain))
    if not agreement and not kl:
        yield f"It helps at every layer, in agreement{' and median KL' if len(kl_gain) else ''}."
    if agreement:
        yield f"It does not help everywhere: agreement is no higher {_at(agreement, len(gain))}."
    if kl:
        yield f"It does not help everywhere: the median KL is no lower {_at(kl, len(kl_gain))}."


def _at_equal_depth(artefact: cards.Artefact) -> Iterator[str]:
    """The readouts of a trade-off at the same depth, interpolated between KL factors."""
    frame = cards.trade_off(artefact)
    if frame["rule"].nunique() > 1:
        return
    first, *learned = cards.series_of(frame) or [""]
    base = _line(frame, first)
    for name in learned:
        line = _line(frame, name)
        depths = line["layers_skipped"].between(base["layers_skipped"].min(), base["layers_skipped"].max())
        shared = line[depths & line["agreement"].notna()]
        if shared.empty:
            begun = _named(name).replace("the", "The", 1)
            yield f"{begun} and {_named(first)} skip no like share of layers, and can't be compared at equal depth."
            continue
        base_agreement = np.interp(shared["layers_skipped"], base["layers_skipped"], base["agreement"])
        nearest = cards.nearest_to_one(shared["label"].tolist())
        row = shared.iloc[nearest]
        skipped, share = percent(row["layers_skipped"]), percent(row["agreement"])
        said = (
            f"Where {skipped} of the layers are skipped, {_named(name)} would agree with the final layer on {share} of "
            f"held-out tokens, {_named(first)} on {percent(base_agreement[nearest])} (teacher-forced, interpolated)."
        )
        less = shared.loc[shared["agreement"].to_numpy() <= base_agreement + CLOSE, "layers_skipped"]
        helps_not = [f"It does not help where {', '.join(map(percent, less))} are skipped."] if len(less) else []
        yield " ".join([said, *helps_not])


def _rules(artefact: cards.Artefact) -> Iterator[str]:
    """The rules of a trade-off at the same KL factor, the one nearest to 1 that all have."""
    frame = cards.trade_off(artefact)
    frame = frame[frame["rule"].notna() & frame["agreement"].notna()]
    for rows in cards.groups(frame, "readout").values():
        by_rule = {rule: of_rule.set_index("label") for rule, of_rule in cards.groups(rows, "rule").items()}
        common = [label for label in rows["label"].unique() if all(label in of.index for of in by_rule.values())]
        if len(by_rule) < 2 or not common:
            continue
        k = common[cards.nearest_to_one(common)]
        yield " ".join(
            f"At KL factor {k}, {rule} would skip {percent(of.loc[k, 'layers_skipped'])} of the layers and agree with "
            f"the final layer on {percent(of.loc[k, 'agreement'])} of held-out tokens (teacher-forced)."
            for rule, of in by_rule.items()
        )


def _beside_controls(artefact: cards.Artefact) -> Iterator[str]:
    """The learned exits that agree no more often than random ones at the same depths."""
    frame = cards.trade_off(artefact)
    known = frame[frame["agreement_control"].notna() & ~frame["series"].isin(cards.series_of(frame)[:1])]
    worse = known[known["agreement"] <= known["agreement_control"] + CLOSE]
    for name, rows in cards.groups(worse, "series").items():
        factors = ", ".join(rows["label"])
        yield f"{name} does not help at KL factor {factors}: random exits at the same depths agree as often."


def _ranks(artefact: cards.Artefact) -> Iterator[str]:
    frame = cards.probes(artefact)
    kept = frame[frame["kept"] & frame["rank_correlation"].notna()]
    if kept.empty:
        return
    ordered = kept.sort_values("rank_correlation", kind="stable")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    least, most = (f"{row['rank_correlation']:.2f} (layer {row['layer']:g})" for row in (low, high))
    to = "" if low["layer"] == high["layer"] else f" to {most}"
    yield f"The probe's rank correlation with the true KL is {least}{to}."


def _calibrated(artefact: cards.Artefact) -> Iterator[str]:
    frame = cards.calibration(artefact)
    if frame.empty:
        return
    factors = list(dict.fromkeys(frame["k"]))
    rows = frame[frame["k"] == factors[cards.nearest_to_one(factors)]]
    excess, n = (rows["predicted"] - rows["true"]) * rows["n"], rows["n"].sum()
    off = excess.abs().groupby(rows["layer"]).sum() / rows["n"].groupby(rows["layer"]).sum()
    k, mean, most = rows["k"].iloc[0], 100 * excess.abs().sum() / n, 100 * off.max()
    yield (
        f"At KL factor {k} its stop chance is off by {mean:.1f} points on average, most ({most:.1f}) at layer "
        f"{off.idxmax():g}."
    )
    bias = float(100 * excess.sum() / n)
    if abs(bias) < 0.05:
        yield "Its mean is right."
    else:
        yield f"Its mean is {abs(bias):.1f} points too {'high' if bias > 0 else 'low'}."


def _exits(artefact: cards.Artefact) -> Iterator[str]:
    """What training changed in the mean KL at the exits, at the KL factor nearest to 1."""
    frame = cards.exits(artefact)
    known = frame[frame["mean_kl"].notna()]
    changes = {
        k: rows.pivot_table(index="layer_label", columns="when", values="mean_kl", sort=False)
        for k, rows in cards.groups(known, "k").items()
    }
    changes = {k: table.dropna() for k, table in changes.items() if {"before", "after"} <= set(table.columns)}
    changes = {k: table for k, table in changes.items() if cards.EVERYWHERE in table.index}
    if not changes:
        return
    k = list(changes)[cards.nearest_to_one(list(changes))]
    before, after = (float(changes[k][when][cards.EVERYWHERE]) for when in ("before", "after"))
    counts = known.loc[(known["k"] == k) & (known["layer_label"] == cards.EVERYWHERE), "n"].dropna()
    lowers = after < before - CLOSE
    n = counted(int(counts.iloc[-1]), "held-out token") if len(counts) else "unknown"
    does = "lowers" if lowers else "does not lower"
    said = f"At KL factor {k}, training {does} the mean KL of what tokens are read from."
    by_how_much = f"It is {before:.3g} nats before and {after:.3g} nats after (n = {n})."
    by_layer = changes[k].drop(index=cards.EVERYWHERE)
    worse = by_layer.index[by_layer["after"] >= by_layer["before"] - CLOSE].tolist()
    falls_not = [f"It does not fall {_at(worse, len(by_layer))}."] if worse and lowers else []
    yield " ".join([said, by_how_much, *falls_not])


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
    return f"the {readout}" if readout == cards.LENS else f"the {readout} readout"
