"""A sweep's evidence on a packaged setting: its certificate, prompts and savings, and some of its texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Final

import pyarrow.compute as pc

from eexit.custom_generate.package import Certificate, HeldOutCheck, PromptDistribution, TimingRecord
from eexit.errors import UsageError
from eexit.output.text import is_known
from eexit.plan.configuration import GENERATE
from eexit.plan.runs import OK
from eexit.plan.splits import kinds
from eexit.plan.sweep_config import SweepConfig
from eexit.results.committed import runs_with_tokens
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.store.folder import Store
from eexit.results.study_tables import TIMINGS
from eexit.studies.selection.study import choices_made
from eexit.studies.timing.speedups import speedups_of
from eexit.training.texts import TrainingText, text_from_run

N_EXAMPLES: Final = 3  # prompts in the package
EXAMPLE_LENGTH: Final = 200  # characters of each
N_TEXTS: Final = 4  # that are generated again and compared


def chosen_key(sweep: FinishedSweep) -> str:
    """Return the setting of the latest choice. Raise `UsageError` if it selected none."""
    choices = choices_made(sweep.store)
    if not choices:
        raise UsageError(f"{sweep.name} has no choices: choose with eexit choose, or give --configuration KEY")
    latest = choices[-1]
    if latest["configuration"] is None:
        raise UsageError(
            f"the latest choice of {sweep.name} (risk {latest['risk']}) certified no setting that saves anything: "
            "choose by another risk or bound, or give --configuration KEY, which then has no guarantee"
        )
    return str(latest["configuration"])


def certificate_of(store: Store, key: str) -> Certificate | None:
    """Return the setting's latest certificate; None without any."""
    of_key = ((row, each) for row in choices_made(store) for each in row["tested"] if each["configuration"] == key)
    certified = [(row, tested) for row, tested in of_key if tested["certified"]]
    if not certified:
        return None
    row, tested = certified[-1]
    asked = {name: row[name] for name in ("risk", "loss", "max_risk", "confidence", "test", "order", "question")}
    beside = ("loss_of_right", "n_of_right", "p_of_right", "loss_of_prompts", "n_of_prompts")
    found = {name: tested[name] for name in ("n", "mean_loss", "p_value", *beside)}
    held_out = None
    if row["configuration"] == tested["configuration"] and row["reporting_n"]:
        held_out = HeldOutCheck(**{name: row[f"reporting_{name}"] for name in HeldOutCheck.model_fields})
    return Certificate(**asked, **found, held_out=held_out)


def drawn(config: SweepConfig) -> PromptDistribution:
    """Return the sweep's prompts and sampling."""
    names = PromptDistribution.model_fields.keys() & SweepConfig.model_fields.keys()
    of_kind = dict(Counter(kinds(map(asdict, config.prompts)).values()))
    examples = [prompt.prompt[:EXAMPLE_LENGTH] for prompt in config.prompts[:N_EXAMPLES]]
    how = {name: getattr(config, name) for name in names}
    return PromptDistribution(n=len(config.prompts), kinds=of_kind, examples=examples, **how)


def timed(store: Store, key: str) -> list[TimingRecord]:
    """Return the setting's time savings, as last measured."""
    rows = TIMINGS.rows(store)
    of_generate = {each.batch: each.time.mean for each in speedups_of(rows, key, GENERATE)}
    return [
        TimingRecord(
            rows=each.batch,
            tokens_per_second=each.tokens_per_second,
            saved=each.realised,
            low=each.saved.low if is_known(each.saved.low) else None,
            high=each.saved.high if is_known(each.saved.high) else None,
            rounds=each.rounds,
            machine=each.machine,
            of_generate=of_generate.get(each.batch),
        )
        for each in speedups_of(rows, key)
    ]


def mean_savings(sweep: FinishedSweep, key: str) -> dict[str, float | None]:
    """Return the shares of full-depth multiply-adds that a setting saves, if deciding were free and as run."""
    costs = {"theoretical": "macs_required", "run": "macs_executed"}
    return {name: sweep.saved(key, cost).as_dict["mean"] for name, cost in costs.items()}


def swept_texts(sweep: FinishedSweep, key: str, seed: int) -> Sequence[TrainingText]:
    """Return a few texts of a setting with this seed. Raise `UsageError` if there is none."""
    columns = ["prompt_id", "status", "configuration", "seed", "prompt_token_ids"]
    is_asked = (pc.field("configuration") == key) & (pc.field("seed") == seed) & (pc.field("status") == OK)
    runs = runs_with_tokens(sweep.store, columns, is_asked, ["token_id"])
    found = [text_from_run(run, tokens) for run, tokens in islice(runs, N_TEXTS)]
    if not found:
        raise UsageError(f"no run of {key} with seed {seed} is without an error: there is nothing to compare with")
    return found
