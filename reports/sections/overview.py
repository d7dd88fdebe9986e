"""All text and charts of the overview, section by section."""

from typing import Any

from eexit.plan.configuration import Draft, EarlyExit
from reports.progress import Progress, ignore
from reports.read.sweep import Sweep
from reports.sections.by_kind import found_by_kind, kind_figure
from reports.sections.certainty import certainty_figure
from reports.sections.contrasts import beside_section
from reports.sections.drafts import draft_section
from reports.sections.exits.depth_by_position import depth_figure
from reports.sections.exits.dose_response import dose_figures
from reports.sections.exits.exit_distribution import mix_figure
from reports.sections.full_table import configuration_columns
from reports.sections.learned_exits import learned_section
from reports.sections.quality_against_cost import quality_figure
from reports.sections.reasoning import reasoning_section
from reports.sections.selected_setting import settings_section
from reports.sections.timing import timing_section
from reports.sections.verdict import verdict
from reports.shared.figures import Figure, table
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration
from reports.shared.quality import quality_of
from reports.shared.savings import savings
from reports.shared.styles import ChartStyle


def overview(sweep: Sweep, progress: Progress = ignore) -> dict[str, Any]:
    """Return section name → data for the page's scripts; None for a section that the sweep has no data for.

    Drafts emit every token from full depth, so only their own section includes them.
    """
    exits = sweep.without_drafts
    configurations = per_configuration(exits)
    saves = savings(exits, configurations)
    runs = PairedRuns.from_sweep(exits)
    quality = quality_of(exits, configurations, runs.differences(), saves)
    # A sweep of drafts without exits has only `normal` runs besides.
    kinds = {type(configuration) for configuration in sweep.configurations}
    tells = Draft not in kinds or EarlyExit in kinds
    looks = ChartStyle.for_configurations(exits.configurations)
    figures: list[Figure] = []
    if tells:
        figures += [*mix_figure(exits), *dose_figures(configurations, looks)]
        figures += depth_figure(exits, configurations, looks, progress)
    main = quality_figure(exits, quality, saves) if quality and tells else None
    card = verdict(sweep.verdict, quality)
    setting = card.setting if card else None
    by_kind = kind_figure(exits, found_by_kind(exits), setting) if tells else None
    certain = certainty_figure(exits)
    progress("comparing configurations")
    return {
        "verdict": card and vars(card),
        "by_kind": by_kind.data if by_kind else None,
        "certainty": certain.data if certain else None,
        "trade": main.data if main else None,
        "settings": settings_section(quality) if quality else None,
        "time": timing_section(exits, saves) if tells else None,
        "beside": beside_section(runs, configurations),
        "charts": [figure.data for figure in figures],
        "numbers": table(quality.rows, tuple(configuration_columns(exits, saves))) if quality and not main else None,
        "drafts": draft_section(sweep),
        "learned": learned_section(sweep),
        "reasoning": reasoning_section(exits, configurations, saves),
    }
