"""Replaying settings that were never run on the texts of a finished sweep."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from eexit.output.result_table import ResultTable
from eexit.output.text import counted
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import Exit
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay.recorded import Transcript, follows_from_full_depth, replay_recorded, summary, together
from eexit.studies.replay.table import replays_table
from eexit.studies.study import Done, Part, Row, Study, Unit

TOKENS_PER_PART: Final = 1024


class ReplayStudy(Study):
    """Settings, as `config` has them, on the texts of the configuration with the key `text_of`.

    A unit is a group of settings that are replayed together, and a part replays them on some of the texts.
    """

    table = REPLAYS
    doing, if_memory_is_short = "replaying", "choose a device with more memory"

    def __init__(
        self, config: SweepConfig, settings: Sequence[Exit], text_of: str, transcripts: Sequence[Transcript],
        n_layers: int, groups: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.config, self.settings, self.text_of, self.transcripts = config, settings, text_of, transcripts
        self._groups = groups
        self._layers, self._n_layers, self._is_adapted = config.exit_layers or (), n_layers, config.adapter is not None
        self._cuts = list(pairwise(self.cuts(TOKENS_PER_PART)))
        is_recorded = all(transcript.teacher is not None for transcript in transcripts) and all(
            setting.is_oracle and follows_from_full_depth(setting, self._is_adapted) for setting in settings
        )
        self.needs_model = not is_recorded
        n_settings, n_texts = counted(len(settings), "setting"), counted(len(transcripts), "text")
        from_where = ", from what was recorded" if is_recorded else ""
        self.opening = f"replaying {n_settings} on {n_texts} of {text_of}{from_where}"

    def n_tokens(self, start: int = 0, end: int | None = None) -> int:
        """Decided tokens of some texts, by default of all."""
        return sum(len(transcript.text.token_ids) - 1 for transcript in self.transcripts[start:end])

    def cuts(self, most_tokens: int) -> list[int]:
        """Where to cut the texts into parts of about so many tokens: the first text of each, and the end."""
        cuts, tokens = [0], 0
        for index in range(1, len(self.transcripts)):
            tokens += self.n_tokens(index - 1, index)
            if tokens >= most_tokens:
                cuts, tokens = [*cuts, index], 0
        return [*cuts, len(self.transcripts)]

    def load(self, device: str, memory_share: float) -> Sequence[str]:
        """Raises `UsageError` if the model can't be loaded, or does not fit what is asked of it."""
        from eexit.studies.replay.with_model import Replayer

        self._replayer = Replayer.of_sweep(self.config, device)
        return ()

    def units(self) -> Sequence[Unit]:
        return [
            Unit([Part(_text(group), (group, start, end), self.n_tokens(start, end)) for start, end in self._cuts])
            for group in together(self.settings, self._is_adapted)
        ]

    def do(self, part: Part) -> Done:
        """For each of some texts, the result under each setting."""
        settings, start, end = part.what
        replayed = [
            self._replayer.replay(settings, transcript)
            if self.needs_model
            else replay_recorded(settings, transcript, self._layers)
            for transcript in self.transcripts[start:end]
        ]
        return Done(replayed, self.n_tokens(start, end))

    def rows(self, unit: Unit, results: Sequence[Any]) -> Sequence[Row]:
        settings, *_ = unit.parts[0].what
        prompt_ids = [transcript.text.prompt_id for transcript in self.transcripts]
        units = [self._groups.get(prompt_id, prompt_id) for prompt_id in prompt_ids]
        by_text = [of_text for result in results for of_text in result]
        return [
            {
                **setting.columns,
                "text_of": self.text_of,
                "tokens": self.n_tokens(),
                **summary(setting, replayed_T, units, self._layers, self._n_layers),
                "readout": self.config.readout,
                "decide_on": self.config.decide_on,
                "model": self.config.model,
            }
            for setting, replayed_T in zip(settings, zip(*by_text, strict=True), strict=True)
        ]

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        return [replays_table(rows)]


def _text(group: Sequence[Any]) -> str:
    return str(group[0].key) if len(group) == 1 else f"{group[0].key} and {len(group) - 1} more"
