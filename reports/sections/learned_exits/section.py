"""The overview's section "Learned exits": what was trained on which data, what it changes, where it does not help."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.plan.artefacts import ADAPTER, PROBE
from reports.read.sweep import Sweep
from reports.sections.learned_exits import cards
from reports.sections.learned_exits import charts as drawing
from reports.sections.learned_exits.artefacts import artefact_facts, basis, summary
from reports.sections.learned_exits.cards import Artefact
from reports.sections.learned_exits.charts import Quantity
from reports.sections.learned_exits.words import learned_findings
from reports.shared.charts import Columns, is_logarithmic
from reports.shared.figures import Figure, Slice, Variant, one
from reports.shared.measures import LAYERS_SKIPPED

ABOUT: Final = (
    "As the training measured them on prompts that it was not trained on; the charts above are of the sweep's own runs."
)
ARTEFACT: Final = "Artefact"
TEACHER_FORCED: Final = (
    "Teacher-forced, on held-out prompts: the text is given, so that this says nothing of what exits do to later "
    "tokens. Expected over the draws of the exits."
)
CONTROLS: Final = "Dotted line to a tick: its control, which exits equally often at each layer, but at random tokens. "
HELD_OUT: Final[Columns] = (
    ("series", "Readout", "text"),
    ("layer", "Layer", "count"),
    ("agreement", "Agreement", "share"),
    ("median_kl", "Median KL, nats", "real"),
    ("mean_kl", "Mean KL, nats", "real"),
    ("artefact", "Artefact", "text"),
)
TRADE_OFF: Final[Columns] = (
    ("series", "Exits by", "text"),
    ("kl_factor", "KL factor", "real"),
    ("layers_skipped", LAYERS_SKIPPED, "share"),
    ("mean_depth", "Mean depth", "share"),
    ("exit_rate", "Early exits", "share"),
    ("agreement", "Expected agreement", "share"),
    ("agreement_control", "Its control's agreement", "share"),
    ("expected_kl", "Expected KL, nats", "real"),
    ("expected_kl_control", "Its control's KL, nats", "real"),
    ("artefact", "Artefact", "text"),
)
RANKS: Final[Columns] = (
    ("series", "Probe", "text"),
    ("layer", "Layer", "count"),
    ("rank_correlation", "Rank correlation", "real"),
    ("kept_words", "Kept", "text"),
)
CALIBRATION: Final[Columns] = (
    ("layer_label", "Layer", "text"),
    ("kl_factor", "KL factor", "real"),
    ("bin", "Bin", "count"),
    ("n", "n tokens", "count"),
    ("predicted", "Predicted stop chance", "share"),
    ("true", "True stop chance", "share"),
)
EXITS: Final[Columns] = (
    ("layer_label", "Exit layer", "text"),
    ("series", "Training", "text"),
    ("kl_factor", "KL factor", "real"),
    ("n", "n tokens", "count"),
    ("mean_kl", "Mean KL, nats", "real"),
    ("median_kl", "Median KL, nats", "real"),
    ("agreement", "Agreement", "share"),
)
_BY_LAYER: Final = (  # quantity, title, how it is read
    (
        Quantity("agreement", "Agreement (share of held-out tokens)", is_share=True),
        "Agreement with the final layer",
        "Up is better. The share of held-out tokens for which a layer's likeliest token is the final layer's.",
    ),
    (
        Quantity("median_kl", "Median KL(final ‖ layer), nats"),
        "KL from the final layer",
        "Down is better. The median over held-out tokens.",
    ),
)
_TRADES: Final = (  # quantity, title, which way is better
    (Quantity("agreement", "Expected agreement", is_share=True), "Expected agreement against layers skipped", "Up"),
    (Quantity("expected_kl", "Expected KL(final ‖ exit), nats"), "Expected KL against layers skipped", "Down"),
)
RANK: Final = Quantity("rank_correlation", "Rank correlation with the true KL")
_AT_EXITS: Final = (  # quantity, label
    (Quantity("mean_kl", "Mean KL(final ‖ exit), nats"), "Mean KL"),
    (Quantity("median_kl", "Median KL(final ‖ exit), nats"), "Median KL"),
    (Quantity("agreement", "Agreement with the final layer", is_share=True), "Agreement"),
)


def learned_section(sweep: Sweep) -> dict[str, Any] | None:
    """Findings, charts and a description of each artefact; None for a sweep that uses none."""
    used = cards.artefacts(sweep.about)
    if not used:
        return None
    several = len(used) > 1
    findings = [
        (f"{artefact.name}: " if several else "") + sentence
        for artefact in used
        for sentence in learned_findings(artefact)
    ]
    figures = [*_held_out(used), *_trade_offs(used), *_probe(used, sweep.exitable_layers), *_student(used)]
    return {
        "about": ABOUT,
        "findings": findings,
        "artefacts": [{"summary": summary(artefact), "facts": artefact_facts(artefact)} for artefact in used],
        "charts": [figure.data for figure in figures],
    }


def _held_out(used: Sequence[Artefact]) -> Iterator[Figure]:
    """Agreement and median KL by layer, with a variant per artefact: those with several readouts, if there are any."""
    found = [(artefact, frame) for artefact in used if len(frame := cards.held_out(artefact))]
    kept = [(artefact, frame) for artefact, frame in found if len(cards.series_of(frame)) > 1] or found
    rows, columns = cards.together(kept), HELD_OUT
    for y, title, means in _BY_LAYER:
        if len(rows) and rows[y.column].notna().any():
            caption = f"{means} {_logarithmic(y, rows[y.column])}{_n([artefact for artefact, _ in kept])}"
            description = f"{title} by layer. {caption}"
            draw = partial(drawing.by_layer_chart, y=y, columns=columns, description=description)
            yield _of_artefacts(f"learned-{y.column}", f"{title}, by layer", caption, y, rows, draw)


def _trade_offs(used: Sequence[Artefact]) -> Iterator[Figure]:
    kept = [(artefact, frame) for artefact in used if len(frame := cards.trade_off(artefact))]
    rows = cards.together(kept)
    for y, title, better in _TRADES:
        if len(rows) and rows[y.column].notna().any():
            control = rows[f"{y.column}_control"]
            controls = CONTROLS if control.notna().any() else ""
            log, n = _logarithmic(y, pd.concat([rows[y.column], control])), _n([artefact for artefact, _ in kept])
            caption = f"{better} and right is better. {TEACHER_FORCED} {controls}{log}{n}"
            draw = partial(drawing.learned_trade_off_chart, y=y, columns=TRADE_OFF, description=f"{title}. {caption}")
            yield _of_artefacts(f"learned-trade-{y.column}", title, caption, y, rows, draw)


def _probe(used: Sequence[Artefact], layers: tuple[int, ...]) -> Iterator[Figure]:
    for artefact in used:
        if PROBE not in artefact.roles:
            continue
        ranks, bins, n = cards.probes(artefact), cards.calibration(artefact), _n([artefact])
        if len(ranks):
            caption = (
                "Up is better: 1 would order tokens as their true KL does, 0 is no better than chance. Spearman's "
                f"correlation over held-out tokens. Larger points: the kind of probe that was kept for the layer. {n}"
            )
            chart = drawing.by_layer_chart(ranks, RANK, RANKS, f"The probe's rank correlation by layer. {caption}")
            title = "How well the probe ranks tokens"
            yield Figure("learned-ranks", title, caption, one(chart), ranks, RANKS)
        if len(bins):
            caption = (
                "Dashed: a prediction that is right on average. Above it, the probe predicts too low a chance to stop. "
                f"Means of held-out tokens in ten bins of the predicted chance; larger points have more tokens. {n}"
            )
            known = drawing.layer_colours(layers or tuple(sorted(bins["layer"].unique())))
            chart = drawing.calibration_chart(
                bins, CALIBRATION, known, f"True against predicted stop chances. {caption}"
            )
            title, by_factor = "The probe's calibration", _by_kl_factor(bins)
            yield Figure("learned-calibration", title, caption, one(chart), bins, CALIBRATION, slice=by_factor)


def _student(used: Sequence[Artefact]) -> Iterator[Figure]:
    for artefact in used:
        rows = cards.exits(artefact) if ADAPTER in artefact.roles else pd.DataFrame()
        if rows.empty:
            continue
        caption = (
            "Left is better for KL, right for agreement. What is read at exits drawn from the base model's KLs at a KL "
            "factor, beside the base model's final layer, given the same text. All tokens: also those that exit "
            f"nowhere and are read at the final layer. {_n([artefact])}"
        )
        told = f"at the exits before and after training. {caption}"
        variants = [
            Variant(label, drawing.exits_chart(rows, x, EXITS, f"{label} {told}"))
            for x, label in _AT_EXITS
            if rows[x.column].notna().any()
        ]
        title, by_factor = "The student at its exits, before and after training", _by_kl_factor(rows)
        yield Figure(
            "learned-exits", title, caption, variants, rows, EXITS, choice="Metric", slice=by_factor, wide=True
        )


def _by_kl_factor(rows: pd.DataFrame) -> Slice:
    values = list(dict.fromkeys(rows["k"]))
    return Slice("KL factor", "k", values, cards.nearest_to_one(values))


def _of_artefacts(
    key: str, title: str, caption: str, y: Quantity, rows: pd.DataFrame, draw: partial[alt.LayerChart]
) -> Figure:
    """A variant for each artefact that has it; artefacts are named in the table where there are several."""
    columns: Columns = draw.keywords["columns"]
    known = {name: frame for name, frame in cards.groups(rows, "artefact").items() if frame[y.column].notna().any()}
    variants = [Variant(name, draw(frame)) for name, frame in known.items()]
    told = tuple(column for column in columns if column[0] != "artefact" or rows["artefact"].nunique() > 1)
    return Figure(key, title, caption, variants, rows, told, choice=ARTEFACT)


def _n(used: Sequence[Artefact]) -> str:
    """The part of a caption that gives n; cards have no intervals."""
    counted = "; ".join(dict.fromkeys(filter(None, map(basis, used))))
    return f"n = {counted}; the card has no intervals." if counted else "The card has no n and no intervals."


def _logarithmic(y: Quantity, values: pd.Series) -> str:
    return "The axis is logarithmic. " if not y.is_share and is_logarithmic(values) else ""
