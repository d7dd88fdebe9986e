"""A conversation with a model under a setting, streamed to the terminal: each token in the colour of its exit layer."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel

from eexit.custom_generate.setting import Setting
from eexit.model.chat import Tokenizer, tokenize_conversation
from eexit.model.decoder import context_of
from eexit.output.text import percent

EARLIEST, LATEST = (0, 175, 95), (215, 175, 0)  # the colours, in RGB, of the first and of the last exitable layer
FULL_DEPTH: Final = "default"
ROOM: Final = 4  # the part of the context that is kept free for an answer, unless it is to be shorter
COMMANDS: Final = (
    "/normal has full depth answer every question too, or no longer; /help says this; an empty line ends; whatever "
    "else is typed is asked"
)


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
        self.console.print(f"{taken.key} of {taken.model.name}", highlight=False, markup=False)
        legend = Text("read after layer ")
        for layer, colour in self._colours().items():
            legend.append(f"{layer} ", colour)
        self.console.print(legend.append("or at full depth"))

    def take(self, line: str) -> None:
        """Do what a line says: it is a command if it is a word behind a slash, or else a question."""
        if not re.fullmatch(r"/\w*", line):
            self.answer(line)
        elif line.lower() == "/normal":
            self.beside = not self.beside
            now = "full depth answers every question too from now on"
            self._tell(now if self.beside else "full depth answers no longer")
        else:
            self._tell(COMMANDS if line.lower() == "/help" else f"there is no command {line}: {COMMANDS}")

    def answer(self, question: str) -> None:
        """Stream the answer, and say how fast it came; a question that the model can't read is forgotten."""
        self.turns.append(("user", question))
        inputs = self._inputs()
        if inputs is None:
            self.turns.pop()
            return
        before = self.setting.stats
        told = self._generated(inputs, self.setting)
        self.turns.append(("assistant", told.text))
        self._tell(self._speed(self.setting.taken.key, told) + self._saving(before))
        if self.beside:
            plain = self._generated(inputs, None)
            self._tell(self._speed("normal (plain generate)", plain))

    def _inputs(self) -> dict[str, Tensor] | None:
        """The conversation with room for an answer, for which its oldest turns are left out; None if there is none."""
        context, n_tokens = self._context, 0
        for first in range(0, len(self.turns), 2):
            turns = [("system", self.system), *self.turns[first:]]
            inputs = tokenize_conversation(turns, self.tokenizer, self.model.device)
            n_tokens = inputs["input_ids"].shape[1]
            is_alone = first == len(self.turns) - 1
            if context is None or n_tokens + (1 if is_alone else min(self.max_new_tokens, context // ROOM)) <= context:
                self._leave_out(first)
                return inputs
        self._tell(f"that question is not asked: it takes {n_tokens:,} tokens, and the model reads {context:,}")
        return None

    def _leave_out(self, n_turns: int) -> None:
        self.turns = self.turns[n_turns:]
        if n_turns:
            oldest = "question and its answer are" if n_turns == 2 else f"{n_turns // 2} questions and answers are"
            self._tell(f"the oldest {oldest} left out from now on: the model reads {self._context:,} tokens")

    @property
    def _context(self) -> int | None:
        """The tokens that the model reads at most."""
        return context_of(self.model.config.get_text_config())

    def _tell(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)

    def _generated(self, inputs: dict[str, Tensor], setting: Setting | None) -> ColouredText:
        streamer = ColouredText(self.console, self.tokenizer, self._colours())
        context = self._context
        left = self.max_new_tokens if context is None else context - inputs["input_ids"].shape[1]
        model: Any = self.model
        generate: Any = model.generate if setting is None else partial(setting.generate, model)
        generate(
            **inputs, streamer=streamer, do_sample=False,
            max_new_tokens=min(self.max_new_tokens, left),
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
