"""What was planned of an assessment, by the sweeps and artefacts that are there, where the record of it was lost.

Without this, what is planned anew would not be what is there, and none of that could be gone on with.
"""

from dataclasses import replace

from cluster.studies.assessment.workshop import CEILING, RUN, TEXTS, Workshop
from eexit.plan.artefacts import READOUT
from eexit.studies.assessment.learned import LEARNED
from eexit.studies.assessment.parts import CHOOSING, REPORTING
from eexit.studies.assessment.sizes import CURVE, RunSizes, SearchSizes


def search_sizes_of(shop: Workshop, planned: SearchSizes) -> SearchSizes:
    """The sizes of the ceiling and of the texts, and what was learned, as far as they are there; else as planned."""
    if ceiling := shop.manifest(CEILING):
        planned = replace(planned, pilot=len(ceiling.config["prompts"]))
    if texts := shop.manifest(TEXTS):
        planned = replace(planned, training=len(texts.config["prompts"]), seeds=len(texts.config["seeds"]))
    learned = [each.what for each in LEARNED if shop.is_learned(each.what)]
    curve = [CURVE for each in LEARNED if each.role == READOUT and shop.is_learned(shop.few(each.what))]
    return replace(planned, learns=(*learned, *curve)) if learned else planned


def run_sizes_of(shop: Workshop, planned: RunSizes) -> RunSizes:
    """The sizes of the run, if it is there; else as planned."""
    run = shop.manifest(RUN)
    if run is None:
        return planned
    ids = {prompt["id"] for prompt in run.config["prompts"]}
    choosing, reporting = (sum(each.id in ids for each in shop.parts.of[part]) for part in (CHOOSING, REPORTING))
    n_settings = sum(entry["rule"] is not None and not entry["control_of"] for entry in run.configurations)
    controls = any(entry["control_of"] for entry in run.configurations)
    return replace(planned, choosing=choosing, reporting=reporting, settings=n_settings, controls=controls)
