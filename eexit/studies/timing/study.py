"""Study of times: configurations of a finished sweep, at several batch sizes, on some of its prompts.

Each round times all alternatives (configurations, and variants of transformers' `generate`) once, in an order of its
own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.output.result_table import ResultTable
from eexit.output.text import pluralize, truncate_lines, with_versions
from eexit.plan.configuration import (
    GENERATE,
    NORMAL,
    PROMPTS_SAVE_NOTHING,
    Configuration,
    Draft,
    EarlyExit,
    HFGenerate,
    NoExit,
    parse_drafts,
)
from eexit.plan.runs import OK, configurations
from eexit.plan.splits import representative
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.configuration_means import exit_counts
from eexit.results.finished_sweep import FinishedSweep, refuse_unknown
from eexit.results.store.manifest import versions
from eexit.results.study_tables import CHOICES, TIMINGS
from eexit.studies.study import PartResult, Row, Study, StudyPart, StudyUnit
from eexit.studies.timing.calls import BatchTimings, by_call
from eexit.studies.timing.generate_variants import TEXTS, beside_table, variants_beside, with_identity
from eexit.studies.timing.speedups import drafts_table, timings_table
from eexit.studies.timing.step_times import allowed_table, exits_at_one_layer, step_table, step_times

WARM_UP_TOKENS: Final = 8
COLUMNS: Final = ("prompt_id", "status", "configuration", "n_tokens")
EXITS: Final = ("exit_layer_counts",)  # also needed with steps
FIRST_STATE: Final = next(iter(MODES))  # what exits at one layer leave behind is never needed
LEAST_TOKENS: Final = 3  # the first two of a row are not timed

Alternative = Configuration | HFGenerate


@dataclass(frozen=True)
class SweepExitShares:
    """Exits of the sweep's tokens of the timed prompts: configuration → layer → share of decided tokens.

    With it, the study also times steps: `normal`, and exits of all slots at one layer.
    """

    shares: Mapping[str, Mapping[int, float]]
    n_layers: int


class TimingStudy(Study):
    """Study of decoding times at several batch sizes, with the prompts of `config`.

    A unit is a round; a part times one configuration, or transformers' `generate`, at one batch size. The first unit
    warms up.
    """

    table, needs_model, times = TIMINGS, True, True
    doing, oom_hint = "timing", "lower --batch"

    def __init__(
        self, config: SweepConfig, alternatives: Sequence[Alternative], batches: Sequence[int],
        lengths: Mapping[str, int], n_rounds: int, exits: SweepExitShares | None = None, per_round: int | None = None,
        n_calls_before: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.alternatives, self.batches = config, alternatives, batches
        self.lengths, self.n_tokens, self._n_calls_before = lengths, max(lengths.values()), n_calls_before
        self.n_rounds, self._exits, self._per_round = n_rounds, exits, per_round
        self._warm_ups: dict[tuple[str, int], float] = {}  # seconds, by alternative and batch size
        n_chosen = sum(isinstance(each, Configuration) for each in alternatives) - 1
        self.opening = (
            f"timing {pluralize(n_chosen, 'configuration')}, {NORMAL} and {GENERATE}, "
            f"{pluralize(len(config.prompts), 'prompt')} × {self._tokens}, "
            f"{'' if per_round is None else f'{per_round} of them in each round, '}"
            f"{_in_words(batches)} at a time, {pluralize(n_rounds, 'round')}"
        )

    @property
    def _tokens(self) -> str:
        least = min(self.lengths.values())
        return pluralize(self.n_tokens, "token") if least == self.n_tokens else f"{least} to {self.n_tokens} tokens"

    def load(self, device: str) -> Sequence[str]:
        """Load the model, and find the prompts to time; return remarks for users.

        Raise `UsageError` if the model can't be loaded, or if no prompt leaves room for its tokens.
        """
        from eexit.studies.timing.decode_timer import DecodeTimer
        from eexit.studies.timing.plain_generate import drafts_itself

        remarks = []
        self._timer = DecodeTimer(self.config, device, self.n_tokens, self.lengths)
        self._common = self._same_for_all()
        if n_left_out := len(self.config.prompts) - len(self._timer.prompts):
            remarks.append(f"{pluralize(n_left_out, 'prompt')} left no room for {self.n_tokens} tokens")
        if any(map(_drafts, self.alternatives)) and not drafts_itself(self._timer.plain):
            remarks.append(f"the {GENERATE} of transformers can't draft with early layers of this model: not timed")
            self.alternatives = [each for each in self.alternatives if not _drafts(each)]
        return remarks

    def _same_for_all(self) -> Mapping[str, Any]:
        import torch

        from eexit.model.quantization import precision_of
        from eexit.studies.timing.decode_timer import describe_machine

        model = self._timer.plain
        return {
            "model": self.config.model,
            "device": model.device.type,
            "machine": describe_machine(model.device),
            "threads": torch.get_num_threads(),
            "versions": with_versions(versions()),
            "dtype": precision_of(model),
        }

    def units(self) -> Sequence[StudyUnit]:
        return [StudyUnit(self._parts(number)) for number in range(self.n_rounds + 1)]

    def _parts(self, number: int) -> Sequence[StudyPart]:
        """Return the parts of a round, shuffled within a batch size; round 0 warms up."""
        parts = []
        for batch in self.batches:
            n_steps = -(-(self._per_round or len(self.config.prompts)) // batch) * self.n_tokens
            order = Random(f"{self._n_calls_before} {number} {batch}")
            for alternative in order.sample(self.alternatives, len(self.alternatives)):
                if batch > 1 and isinstance(alternative, HFGenerate) and alternative.takes_one_row:
                    continue
                what = f"{alternative.key}, {pluralize(batch, 'sequence')}"
                text = f"{what}, round {number} of {self.n_rounds}" if number else f"warming up {what}"
                size = n_steps if number else self._n_warming_up
                parts.append(StudyPart(text, (alternative, batch, number), size))
        return parts

    @property
    def _n_warming_up(self) -> int:
        return min(self.n_tokens, WARM_UP_TOKENS)

    def run_part(self, part: StudyPart) -> PartResult:
        alternative, batch, number = part.what
        if not number:
            self._warm_ups[alternative.key, batch] = self._timer.warm_up(alternative, batch, self._n_warming_up)
            return PartResult([])
        own = in_turn(self._timer.prompts, number, self._per_round)
        timing, texts = self._timer.time(alternative, batch, own)
        if not timing.tokens:  # a draft was the whole text, so that the clock never started
            return PartResult([])
        prompt_ids = in_turn(self._timer.prompt_ids, number, self._per_round)
        of_round = {"prompts": len(own), "prompt_ids": prompt_ids, "batch": batch, "round": number, TEXTS: texts}
        warm_up = self._warm_ups.get((alternative.key, batch))
        row = {**self._common, **of_round, **alternative.columns, **asdict(timing), "warm_up": warm_up}
        return PartResult([row], timing.tokens)

    def rows(self, unit: StudyUnit, results: Sequence[Any]) -> Sequence[Row]:
        """Return the rows of a round, by batch size, then in the order of the timed configurations."""
        names = [alternative.key for alternative in self.alternatives]
        rows = with_identity(super().rows(unit, results))
        return sorted(rows, key=lambda row: (self.batches.index(row["batch"]), names.index(row["configuration"])))

    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        times = step_times(rows, self._exits.n_layers) if self._exits else None
        of_steps = (step_table(times), allowed_table(rows, times, self._exits.shares)) if times and self._exits else ()
        beside = beside_table(rows)
        return [table for table in (timings_table(rows), drafts_table(rows), beside, *of_steps) if table]


def in_turn(prompts: Sequence[Any], number: int, per_round: int | None) -> Sequence[Any]:
    """Return the prompts of round `number`, from 1: `per_round` prompts in turn, or all prompts for None."""
    n_turns = max(1, len(prompts) // (per_round or len(prompts)))
    return prompts[(number - 1) % n_turns :: n_turns][:per_round]


def _drafts(alternative: Alternative) -> bool:
    return isinstance(alternative, HFGenerate) and alternative.draft_layer is not None


def _in_words(batches: Sequence[int]) -> str:
    """Return batch sizes in words: `1, 2 and 8 sequences`."""
    *others, last = batches
    return " and ".join([*filter(None, [", ".join(map(str, others))]), pluralize(last, "sequence")])


@dataclass(frozen=True)
class TimingArgs:
    """Flags of `eexit timings`.

    Without keys, all configurations that can be timed are; with `only_chosen`, the setting of the last selection, if
    any. `drafts` are timed beside them. `only_fastest` leaves full depth, `generate`, the keys, and the fastest other
    configuration of earlier calls. `with_steps` adds exits of all slots at each exitable layer; with `only_fastest`,
    at the exit layers of the keys. `per_round` prompts take turns in rounds. `only_unused` prompts were in no call with
    more configurations; the least often timed ones come first.
    """

    keys: Sequence[str]
    batches: Sequence[int]
    n_prompts: int
    n_tokens: int | None  # of prompts whose text has as many; None: as many as the text of each has
    n_rounds: int
    with_steps: bool = False
    baselines: Sequence[str] = (GENERATE,)  # keys of transformers' own
    per_round: int | None = None
    only_chosen: bool = False
    drafts: Sequence[str] = ()
    only_unused: bool = False
    only_fastest: bool = False

    @property
    def columns(self) -> Sequence[str]:
        """Columns of runs that a plan needs."""
        return (*COLUMNS, *(EXITS if self.with_steps else ()))


def make_plan(sweep: FinishedSweep, asked: TimingArgs) -> TimingStudy:
    """Return the study that times the configurations in `asked`.

    Raises `UsageError` for configurations that can't be timed, and if all prompts failed.
    """
    config = sweep.config(", which can't be timed by this one")
    chosen, exitable = _asked_for(sweep, config, asked), sweep.manifest.exitable_layers
    lengths = _text_lengths(sweep.runs)
    if not lengths:
        raise UsageError(f"all runs of {sweep.name} are errors: there is no prompt to time")
    drafting = [HFGenerate(each.layer) for each in chosen if isinstance(each, Draft)]
    drafts = _drafts_of(asked.drafts, sweep)
    alternatives = list(dict.fromkeys([NoExit(), *variants_beside(asked.baselines), *chosen, *drafting, *drafts]))
    if asked.only_fastest:
        keys = [each.key for each in chosen]
        fastest = {BatchTimings(sweep.timings, batch, keys[0] if keys else None).fastest for batch in asked.batches}
        alternatives = [each for each in alternatives if each.key in {NORMAL, GENERATE, *keys, *fastest}]
    lengths = _timed_lengths(sweep.name, lengths, asked.n_tokens)
    ids = _fresh(sweep, [*lengths], alternatives, asked.n_prompts) if asked.only_unused else [*lengths]
    if asked.with_steps:
        layers = {layer for each in chosen if isinstance(each, EarlyExit) for layer in each.layers or exitable}
        steps = [EarlyExit(FIRST_STATE, "fixed", float(layer)) for layer in exitable]
        needed = [each for each in steps if not asked.only_fastest or each.parameter in layers]
        alternatives = list(dict.fromkeys([*alternatives, *needed]))
    prompts = _sample([prompt for prompt in config.prompts if prompt.id in {*ids}], asked.n_prompts)
    config = config.model_copy(update={"prompts": prompts})
    exits = _exits(sweep, {prompt.id for prompt in prompts}) if asked.with_steps else None
    batches, n_calls = tuple(dict.fromkeys(asked.batches)), len({row["timing_id"] for row in sweep.timings})
    lengths = {prompt.id: lengths[prompt.id] for prompt in prompts}
    return TimingStudy(config, alternatives, batches, lengths, asked.n_rounds, exits, asked.per_round, n_calls)


def _timed_lengths(name: str, lengths: Mapping[str, int], n_tokens: int | None) -> dict[str, int]:
    """Return prompt id → number of timed tokens. Raises `UsageError` if there are none."""
    if n_tokens is not None and n_tokens < LEAST_TOKENS:
        raise UsageError(f"--tokens must be at least {LEAST_TOKENS}, since the first two are not timed, got {n_tokens}")
    longest = max(lengths.values())
    if longest < LEAST_TOKENS:
        raise UsageError(
            f"the texts of {name} have {pluralize(longest, 'token')} at most, and the first two are not timed: "
            "run a sweep with longer ones, such as --max-new-tokens 32"
        )
    if n_tokens is None:
        return {prompt_id: n for prompt_id, n in lengths.items() if n >= LEAST_TOKENS}
    most = min(n_tokens, longest)
    return {prompt_id: most for prompt_id, n in lengths.items() if n >= most}


def _fresh(sweep: FinishedSweep, ids: Sequence[str], alternatives: Sequence[Alternative], n: int) -> Sequence[str]:
    """Return at least `n` prompts that no call has timed with more alternatives than these, least often timed first.

    Alternatives that exit at one layer, as for step times, don't count. Raise `UsageError` if there are no such
    prompts.
    """
    rules = [each.rule if isinstance(each, EarlyExit) else None for each in alternatives]
    n_compared = sum(not exits_at_one_layer(rule) for rule in rules)
    in_larger, in_others = set[str](), Counter[str]()
    for rows in by_call(sweep.timings).values():
        timed = {prompt_id for row in rows for prompt_id in row["prompt_ids"]}
        if len({row["configuration"] for row in rows if not exits_at_one_layer(row["rule"])}) > n_compared:
            in_larger |= timed
        else:
            in_others.update(timed)
    fresh = sorted((prompt_id for prompt_id in ids if prompt_id not in in_larger), key=lambda each: in_others[each])
    if not fresh:
        raise UsageError(
            f"all prompts of {sweep.name} were timed with more alternatives, and --unused-prompts takes "
            "others: add prompts to the sweep, or leave --unused-prompts out"
        )
    most = in_others[fresh[:n][-1]]
    return [prompt_id for prompt_id in fresh if in_others[prompt_id] <= most]


def _asked_for(sweep: FinishedSweep, config: SweepConfig, asked: TimingArgs) -> list[Configuration]:
    if not asked.only_chosen:
        return choose(configurations(config), asked.keys, sweep.name)
    chosen = [row["configuration"] for row in CHOICES.rows(sweep.store) if row["status"] == OK][-1:]
    return choose(configurations(config), chosen, sweep.name) if any(chosen) else []


def _drafts_of(texts: Sequence[str], sweep: FinishedSweep) -> list[Configuration]:
    """Return the drafts in these texts. Raises `UsageError` for other text, and for a layer that is not exitable."""
    try:
        drafts = [draft for text in texts for draft in parse_drafts(text)]
    except ValueError as error:
        raise UsageError(f"--draft {' '.join(texts)}: {error}") from error
    layers = sweep.manifest.exitable_layers
    for draft in drafts:
        if draft.layer not in layers:
            raise UsageError(f"--draft {draft}: {sweep.name} has exits at layers {', '.join(map(str, layers))} only")
    return list(drafts)


def _exits(sweep: FinishedSweep, prompt_ids: Set[str]) -> SweepExitShares:
    counts = exit_counts(sweep.runs.filter(pc.field("prompt_id").isin(sorted(prompt_ids))))
    shares = {key: {layer: n / of.total() for layer, n in of.items() if n} for key, of in counts.items()}
    return SweepExitShares({key: of for key, of in shares.items() if of}, sweep.n_layers)


def choose(there: Sequence[Configuration], keys: Sequence[str], name: str) -> list[Configuration]:
    """Return the configurations with these keys, or all that can be timed, without `normal`.

    Raises `UsageError` for an unknown key, for an oracle or prompt exits, and if there is nothing to time.
    """
    by_key = {each.key: each for each in there}
    oracles = {each.key: each.rule for each in there if isinstance(each, EarlyExit) and each.is_oracle}
    timeable = [key for key, each in by_key.items() if key not in (NORMAL, *oracles) and not each.prompt_exits]
    refuse_unknown([key for key in keys if key not in (NORMAL, GENERATE)], list(by_key), name)
    for key in keys:
        if key in oracles:
            raise UsageError(
                f"{key} can't be timed: {oracles[key]} is an oracle, which needs the full-depth pass beside it; "
                f"choose from {', '.join(truncate_lines(timeable)) or 'a sweep with online rules'}"
            )
        if key in by_key and by_key[key].prompt_exits:
            raise UsageError(f"{key} can't be timed: {PROMPTS_SAVE_NOTHING}, and the clock starts after them")
    if not timeable:
        raise UsageError(
            f"{name} has nothing to time: its rules are oracles, which save nothing at run time, or it has "
            "none; run a sweep with others, such as --rules fixed=10, or with drafts, such as --draft 20:4"
        )
    return [by_key[key] for key in dict.fromkeys(keys or timeable) if key in timeable]


def _text_lengths(runs: pa.Table) -> dict[str, int]:
    """Return prompt id → tokens of full depth's text (else of the shortest text), for prompts without a failed run.

    A model repeats itself after the end of its text, which is easy for drafts and exits.
    """
    lengths: dict[str, list[int]] = {}
    failed, of_normal = set(), NORMAL in runs["configuration"].unique().to_pylist()
    for prompt_id, status, configuration, n_tokens in zip(*(runs[name].to_pylist() for name in COLUMNS), strict=True):
        if status != OK:
            failed.add(prompt_id)
        elif configuration == NORMAL or not of_normal:
            lengths.setdefault(prompt_id, []).append(n_tokens)
    return {prompt_id: min(of_texts) for prompt_id, of_texts in lengths.items() if prompt_id not in failed}


def _sample(prompts: Sequence[Prompt], n_prompts: int) -> tuple[Prompt, ...]:
    """Return some of these prompts, with each kind in proportion."""
    by_id = {prompt.id: prompt for prompt in prompts}
    drawn = representative({prompt_id: prompt.prompt for prompt_id, prompt in by_id.items()}, n_prompts)
    return tuple(by_id[prompt_id] for prompt_id in drawn)
