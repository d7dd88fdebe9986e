"""The replay study: its configurations, its use of recorded data or of the model, and its closing table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.method.rules import CONTROL, ONLINE, ORACLES
from eexit.output.result_table import ResultTable
from eexit.output.text import format_number, interval, percent, pluralize
from eexit.plan.artefacts import FLAGS, GATE, KV_MAPS, PROBE, locations_of
from eexit.plan.configuration import (
    DRAFT,
    EVERY,
    NORMAL,
    PERFECT,
    EarlyExit,
    configuration_of,
    same_for_every_seed,
    short_name,
)
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.runs import configurations
from eexit.plan.splits import sampling_units
from eexit.plan.sweep_config import SweepConfig
from eexit.plan.validation_errors import explain
from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from eexit.results.configuration_means import saved_share
from eexit.results.finished_sweep import FinishedSweep, refuse_unknown
from eexit.results.layout import MANIFEST
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay.from_records import (
    Transcript,
    follows_from_full_depth,
    read_transcripts,
    replay_recorded,
    summary,
    together,
)
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit
from eexit.training.texts import blocks

TOKENS_PER_PART: Final = 1024
GATE_THRESHOLDS: Final = "gate_thresholds"
NOT_REPLAYED: Final = ("draft", "controls", "only", "prompt_exits", "digests")  # replays begin behind the prompt
UNALTERED: Final = tuple(name for name, state in MODES.items() if not state.modifies_kv)
# Broken so that the table fits 80 columns.
INTERVAL = f"{LEVEL:.0%}\ninterval"
SHARES = ("layers\nskipped", INTERVAL, "dis-\nagree-\nment", INTERVAL)
HEADINGS = (*SHARES, "KL,\nnats", "saved\nin\ntheory", "saved\nas\nrun")
CAPTION = (
    "Teacher-forced: each token is decided given a text of {text_of}, so that a setting's own text may differ. Means "
    "over {prompts} prompts ({texts} texts, seeds averaged first); intervals "
    f"over prompts, from {MIN_SAMPLES} prompts on. Layers skipped: 1 − expected mean depth. Disagreement: tokens whose "
    "likeliest token at the exit is not that of full depth, given the same text. KL: of what is read at the exit from "
    "full depth. Saved in multiply-adds: in theory, if deciding were free (macs_required), and as run (macs_executed), "
    "which oracles are not; – where no model was loaded.{drawn}"
)
DRAWN = " *: random exits alter the KV cache, so KL and disagreement are those of the drawn exits."


class ReplayStudy(Study):
    """Replay of configurations on the texts of the configuration `text_of`.

    A unit of work is a group of configurations that are replayed together; its parts are ranges of texts.
    """

    table = REPLAYS
    doing, oom_hint = "replaying", "choose a device with more memory"

    def __init__(
        self, config: SweepConfig, settings: Sequence[EarlyExit], text_of: str, transcripts: Sequence[Transcript],
        n_layers: int, unit_of: Mapping[str, str], results: str,
    ) -> None:  # fmt: skip
        self.config, self.settings, self.text_of, self.transcripts = config, settings, text_of, transcripts
        self._unit_of, self._results = unit_of, results
        self._layers, self._n_layers, self._is_adapted = config.exit_layers or (), n_layers, config.adapter is not None
        parts = blocks([transcript.text for transcript in transcripts], TOKENS_PER_PART)
        self._cuts = list(pairwise([0, *accumulate(map(len, parts))]))  # each part's texts, as a half-open range
        is_recorded = all(transcript.full_depth is not None for transcript in transcripts) and all(
            setting.is_oracle and follows_from_full_depth(setting, self._is_adapted) for setting in settings
        )
        self.needs_model = not is_recorded
        n_settings, n_texts = pluralize(len(settings), "setting"), pluralize(len(transcripts), "text")
        from_where = ", from what was recorded" if is_recorded else ""
        self.opening = f"replaying {n_settings} on {n_texts} of {text_of}{from_where}"

    def load(self, device: str) -> Sequence[str]:
        """Load the model. Raise `UsageError` if it can't be loaded, or does not fit the configurations."""
        from eexit.studies.replay.with_model import Replayer

        self._replayer = Replayer.of_sweep(self.config, device)
        return ()

    def units(self) -> Sequence[StudyUnit]:
        lengths = [len(transcript.text.token_ids) - 1 for transcript in self.transcripts]
        groups = [(group, _text(group)) for group in together(self.settings, self._is_adapted)]
        return [
            StudyUnit([StudyPart(text, (group, start, end), sum(lengths[start:end])) for start, end in self._cuts])
            for group, text in groups
        ]

    def run_part(self, part: StudyPart) -> PartResult:
        """Return, for each text of the part, the results under all configurations."""
        settings, start, end = part.what
        replayed = [
            self._replayer.replay(settings, transcript)
            if self.needs_model
            else replay_recorded(settings, transcript, self._layers)
            for transcript in self.transcripts[start:end]
        ]
        return PartResult(replayed, int(part.size))

    def rows(self, unit: StudyUnit, results: Sequence[Any]) -> Sequence[Row]:
        settings, *_ = unit.parts[0].what
        texts = [transcript.text for transcript in self.transcripts]
        prompts = [text.prompt_id for text in texts]
        units = [self._unit_of[prompt_id] for prompt_id in prompts]
        n_tokens = sum(len(text.token_ids) - 1 for text in texts)
        by_text = [of_text for result in results for of_text in result]
        read = {name: getattr(self.config, name) for name in ("readout", "screen", "model")}
        of_all = {"text_of": self.text_of, "tokens": n_tokens, "results": self._results, **read}
        return [
            {**setting.columns, **of_all, **summary(setting, replayed_T, prompts, units, self._layers, self._n_layers)}
            for setting, replayed_T in zip(settings, zip(*by_text, strict=True), strict=True)
        ]

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        return [replays_table(rows)]


def _text(group: Sequence[Any]) -> str:
    return str(group[0].key) if len(group) == 1 else f"{group[0].key} and {len(group) - 1} more"


@dataclass(frozen=True)
class ReplayArgs:
    """The grid of configurations to replay: all KL factors and rules, in all modes and exit sets.

    With gate thresholds, rules that read layers are replayed behind the gate; `PERFECT` stands for an ideal gate.
    """

    kl_factors: Sequence[float]
    rules: Mapping[str, Sequence[float]]
    modes: Sequence[str] = ()  # empty: the sweep's
    exit_sets: Sequence[str] = (EVERY,)
    gate_thresholds: Sequence[str] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)  # the sweep's fields to replace, such as screen


def make_replay_plan(sweep: FinishedSweep, asked: ReplayArgs, text_of: str) -> ReplayStudy:
    """Return the study that replays the configurations in `asked` on the texts of configuration `text_of`.

    Without `modes`, oracles are replayed in modes that keep the full-depth KV cache, where all their inputs are
    recorded. Other rules are replayed in the modes of the sweep. Raise `UsageError` for configurations that can't be
    replayed.
    """
    kl_factors, rules, modes = asked.kl_factors, asked.rules, asked.modes
    if not kl_factors and not rules:
        raise UsageError("no setting is given: give --kl-factors 0.25:16:13, or --rules confidence=0.5:0.95:10")
    if CONTROL in rules:
        raise UsageError(f"rule {CONTROL} follows a configuration and has no parameter: leave it out of --rules")
    if fixed := [mode for mode in modes if mode in (NORMAL, DRAFT)]:
        raise UsageError(f"mode {fixed[0]} has no exits to replay: choose from {', '.join(MODES)}")
    stored = sweep.config(exits={*rules, *(modes or sweep.manifest.config["modes"])})
    stored_states = tuple(mode for mode in stored.modes if mode in MODES)
    all_modes = tuple(modes) or tuple(dict.fromkeys((*UNALTERED, *stored_states)))
    grid: dict[str, Any] = {
        "modes": all_modes,
        "kl_factors": tuple(kl_factors),
        "rules": {name: tuple(parameters) for name, parameters in rules.items()},
        "exit_sets": tuple(asked.exit_sets),
    }
    if thresholds := tuple(float(text) for text in asked.gate_thresholds if text != PERFECT):
        grid[GATE_THRESHOLDS] = thresholds
    config = _config(stored, grid, sweep.manifest.exitable_layers, asked.replaced)
    resolve_exitable_layers(config, sweep.n_layers)  # refuses misfitting parameters
    default = {rule: UNALTERED if rule in ORACLES else stored_states or UNALTERED for rule in ("kl", *rules)}
    exits = [each for each in configurations(config) if isinstance(each, EarlyExit)]
    if PERFECT in asked.gate_thresholds:
        ungated = [
            replace(each, gate=None) for each in exits if each.rule in ONLINE and ONLINE[each.rule].needs_distribution
        ]
        exits += [replace(each, gate=PERFECT) for each in dict.fromkeys(ungated)]
    settings = [each for each in exits if modes or each.mode in default[each.rule]]
    there = {each["key"]: configuration_of(each) for each in sweep.manifest.configurations}
    refuse_unknown([text_of], list(there), sweep.name)
    is_same = text_of in same_for_every_seed(configurations(stored), stored.temperature)
    transcripts = read_transcripts(sweep.store, text_of, once=is_same)
    if not transcripts:
        raise UsageError(f"{sweep.name} has no texts of {text_of}: all its runs failed, or decided no token")
    unit_of = sampling_units(sweep.manifest.config["prompts"])
    made_from = sweep.digest_as_read(dict(config))
    return ReplayStudy(config, settings, text_of, transcripts, sweep.n_layers, unit_of, made_from)


def _config(
    stored: SweepConfig, grid: Mapping[str, Any], exitable_layers: Sequence[int], replaced: Mapping[str, str]
) -> SweepConfig:
    """Return the stored configuration with another grid and `replaced` fields, validated as any sweep's."""
    rules = [ONLINE[name] for name in grid["rules"] if name in ONLINE]
    uses = {
        PROBE: any(rule.needs_probe for rule in rules),
        GATE: GATE_THRESHOLDS in grid,
        KV_MAPS: any(MODES[mode].needs_kv_maps for mode in grid["modes"] if mode in MODES),
    }
    unused = {role: None for role, used in uses.items() if not used}
    # The model computes what was not recorded.
    reading = {"exit_layers": tuple(exitable_layers), "prompts": stored.prompts[:1], "record_full_depth": "all"}
    same = {name: value for name, value in dict(stored).items() if name not in NOT_REPLAYED}
    known = {role: digest for role, digest in stored.digests.items() if role not in unused}
    digests = {} if FLAGS.keys() & replaced.keys() else {"digests": known}  # else computed anew
    plain = {GATE_THRESHOLDS: SweepConfig.model_fields[GATE_THRESHOLDS].default}
    try:
        config = SweepConfig.model_validate({**same, **plain, **unused, **grid, **reading, **replaced, **digests})
    except ValidationError as error:
        given = [name for name, value in grid.items() if value]
        raise UsageError(explain(error, {*grid, *replaced}, Path(MANIFEST), SweepConfig.model_fields, given)) from error
    for role in locations_of(dict(config)):
        if role not in replaced and config.digests[role] != stored.digests.get(role):
            raise UsageError(f"the {role} of the sweep was trained anew since: run the sweep again")
    return config


def replays_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return a table with a line for each row of one replay."""
    drawn = DRAWN if any(row["drawn"] for row in rows) else ""
    caption = CAPTION.format(
        text_of=rows[0]["text_of"], drawn=drawn, **{name: f"{rows[0][name]:,}" for name in ("prompts", "texts")}
    )
    table = ResultTable(caption)
    table.add("key", "setting", shorten=short_name)
    table.add("number", *HEADINGS)
    for row in rows:
        table.add_in((row["mode"], row["rule"]), *_line(row))
    return table


def _line(row: Mapping[str, Any]) -> list[str]:
    costs = (row["macs_required"], row["macs_executed"])
    shares = [None if cost is None else saved_share(cost, row["macs_full"]) for cost in costs]
    return [
        f"{row['configuration']}{'*' if row['drawn'] else ''}",
        percent(1 - row["mean_depth"]),
        _interval(*(None if row[end] is None else 1 - row[end] for end in ("mean_depth_high", "mean_depth_low"))),
        percent(row["expected_disagreement"]),
        _interval(row["expected_disagreement_low"], row["expected_disagreement_high"]),
        format_number(row["expected_kl"], ".4g"),
        *map(percent, shares),
    ]


def _interval(low: float | None, high: float | None) -> str:
    """Format an interval in percent, without the sign."""
    low, high = (None if end is None else 100 * end for end in (low, high))
    return interval(low, high, ".1f")
