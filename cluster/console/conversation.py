"""A conversation with a model under a setting, streamed to the terminal: each token in the colour of its exit layer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel

from eexit.doors.setting import Setting
from eexit.messages.written import percent
from eexit.model.chat import Tokenizer, tokenize_conversation

EARLIEST, LATEST = (0, 175, 95), (215, 175, 0)  # the colours, in RGB, of the first and of the last exitable layer
FULL_DEPTH: Final = "default"


class ColouredText:
    """A streamer that writes tokens in the colours of their exit layers, and takes their time."""

    def __init__(self, console: Console, tokenizer: Tokenizer, colours: dict[int, str]):
        self._console, self._tokenizer, self._colours = console, tokenizer, colours
        self._ids: list[int] = []
        self._shown, self._colour = "", FULL_DEPTH
        self._times: list[float] = []
        self._has_prompt = False

    def put_exits(self, layers: Sequence[int]) -> None:
        """The exit layer of the token that comes next."""
        self._colour = self._colours.get(layers[-1], FULL_DEPTH)

    def put(self, value: Tensor) -> None:
        """The prompt first, and then one token after the other; a character of several tokens is the last one's."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        self._times.append(time.perf_counter())
        self._ids += value.flatten().tolist()
        text = self.text
        if not text.endswith("\ufffd"):
            self._console.print(Text(text[len(self._shown) :], self._colour), end="", soft_wrap=True)
            self._shown = text

    def end(self) -> None:
        self._console.print()

    @property
    def text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    @property
    def tokens_per_second(self) -> float:
        """From the first token on, which comes from the prompt's pass."""
        seconds = self._times[-1] - self._times[0] if len(self._times) > 1 else 0
        return (len(self._times) - 1) / seconds if seconds else 0.0


@dataclass
class Conversation:
    """Turns so far, and how they go on. With `beside`, full depth answers every question too, without being kept."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    setting: Setting
    console: Console
    system: str = ""
    max_new_tokens: int = 256
    beside: bool = False
    turns: list[tuple[str, str]] = field(default_factory=list)

    def introduce(self) -> None:
        """What it is a conversation with, and what the colours say."""
        taken = self.setting.taken
        self.console.print(f"{taken.key} of {taken.model.name}", highlight=False)
        legend = Text("read after layer ")
        for layer, colour in self._colours().items():
            legend.append(f"{layer} ", colour)
        self.console.print(legend.append("or at full depth"))

    def answer(self, question: str) -> None:
        """Stream the answer, and say how fast it came."""
        self.turns.append(("user", question))
        turns = [("system", self.system), *self.turns]
        inputs = tokenize_conversation(turns, self.tokenizer, self.model.device)
        before = self.setting.stats
        told = self._generated(inputs, self.setting)
        self.turns.append(("assistant", told.text))
        self._tell(self._speed(self.setting.taken.key, told) + self._saving(before))
        if self.beside:
            plain = self._generated(inputs, None)
            self._tell(self._speed("normal (plain generate)", plain))

    def _tell(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def _generated(self, inputs: dict[str, Tensor], setting: Setting | None) -> ColouredText:
        streamer = ColouredText(self.console, self.tokenizer, self._colours())
        model: Any = self.model
        model.generate(
            **inputs, custom_generate=setting, streamer=streamer, max_new_tokens=self.max_new_tokens, do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )  # fmt: skip
        return streamer

    def _speed(self, name: str, told: ColouredText) -> str:
        return f"{name}: {told.tokens_per_second:.1f} tokens per second"

    def _saving(self, before: dict[str, float]) -> str:
        """What this answer saved of full depth's multiply-adds."""
        now = self.setting.stats
        full, run = (now[f"eexit_{name}_total"] - before[f"eexit_{name}_total"] for name in ("cost_full", "cost_run"))
        return f", {percent(1 - run / full)} of full depth's multiply-adds saved" if full else ""

    def _colours(self) -> dict[int, str]:
        layers = self.setting.taken.exit_layers
        steps = max(1, len(layers) - 1)
        return {
            layer: "rgb({},{},{})".format(*(a + (b - a) * rank // steps for a, b in zip(EARLIEST, LATEST, strict=True)))
            for rank, layer in enumerate(layers)
        }
