"""A student: the base model with a low-rank adapter, trained to say at its exits what the base model says at the end.

Steps learn at layers (`eexit.training.student.layer_loss`) or at exits. For these, the teacher, which is the base model
at full depth, gives each exitable layer its chance to exit, and an exit is drawn for each position of the answer. The
student's forward runs with these exits in `frozen_residual`, and learns from KL(teacher's final ‖ what it says at the
exit). Positions of the prompt, and the one that gives the answer's first token, go through all layers.

Shapes: N decided positions of some texts.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eexit.method.divergence import Divergence
from eexit.method.draws import exit_draws, training_draws
from eexit.method.probes import LayerProbe, Probe
from eexit.training.setup import KL_FACTORS, LAYERS_LOSS, Setup
from eexit.training.streams import Row
from eexit.training.student.curve import Curve, Point, measure, multiply_rate
from eexit.training.student.frozen import LayerStack
from eexit.training.student.layer_loss import LayerLoss
from eexit.training.student.lora import adapter_parameters, add_adapter, save_adapter
from eexit.training.student.passes import Draw, LogitsReader, Pair
from eexit.training.student.probes import fit_probes, student_probe_tables
from eexit.training.texts import Text, blocks, n_tokens
from eexit.training.trainer import Tables, Trainer

TOKENS_AT_A_TIME: Final = 512  # in a forward and a backward pass, for bounded memory
MEASURED_TOKENS: Final = 2048  # of held-out answers that the curve and the tables are made of
PROBE_TOKENS: Final = 16384  # of answers that probes are fitted to
WARM_UP: Final = 0.05  # of the training, until the learning rate is at its highest
MOST_NORM: Final = 1.0  # of a step's gradient


class StudentTrainer(Trainer):
    """Trains an adapter and, in the end, probes on the streams that it leaves."""

    own = ("curve_PC",)
    optimiser: torch.optim.AdamW

    def __init__(self, setup: Setup):
        super().__init__(setup)
        options = setup.options
        assert options.tokens_per_step
        assert options.learning_rate
        assert options.most_tokens
        assert options.most_minutes
        self.tokens_per_step, self.learning_rate = options.tokens_per_step, options.learning_rate
        self.most_tokens, self.most_seconds = options.most_tokens, 60 * options.most_minutes
        stack = LayerStack(setup.model, setup.decoder.n_layers)
        model = add_adapter(setup.model, options)
        self.pair = Pair(model, stack, LogitsReader(setup.decoder, setup.readout), options.layers)
        self.loss, self.curve = LayerLoss(self.pair), Curve(len(options.layers) + 1)
        self.at_exits = options.in_state or 0.0 if options.loss == LAYERS_LOSS else 1.0  # share of the steps
        self.curve_PC = self.curve.points_PC
        self.parameters = adapter_parameters(model)
        self.optimiser = torch.optim.AdamW(self.parameters.values(), weight_decay=0.0)
        self.passes = options.passes or -(-self.most_tokens // self.per_pass)
        self.steps, self.seconds, self.operations = 0, 0.0, 0.0
        self.multiply_rate = multiply_rate(setup.model.device, setup.model.dtype)
        self.probes: dict[int, LayerProbe] = {}

    def train(self, block: Sequence[Text]) -> float | None:
        with FlopCounterMode(display=False) as counter:
            steps = [self._step(texts) for texts in blocks(block, self.tokens_per_step)]
        self.operations += counter.get_total_flops()
        n_decided = sum(n for n, _ in steps)
        return sum(n * loss for n, loss in steps) / n_decided

    def _step(self, texts: Sequence[Text]) -> tuple[int, float]:
        """One step of the optimiser: of how many decided tokens, and their mean KL at the exits or at the layer whose
        turn it is.
        """
        began = time.monotonic()
        n_decided = sum(len(text.token_ids) - 1 for text in texts)
        n_at_exits = math.floor(self.steps * self.at_exits)  # of the steps before
        parts = blocks(texts, TOKENS_AT_A_TIME)
        if math.floor((self.steps + 1) * self.at_exits) > n_at_exits:
            total = sum(self._learn_at_exits(some, n_decided) for some in parts)
        else:
            layer = self.loss.layer(self.steps - n_at_exits, self.done)
            seen = [self.loss.learn(some, layer, n_decided) for some in parts]
            self.loss.weigh(sum(int(each.final_agrees_N.sum()) for each in seen) / n_decided)
            total = sum(each.kl_N.sum().item() for each in seen)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), MOST_NORM)
        self.seen += n_tokens(texts)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        self.seconds += time.monotonic() - began
        return n_decided, total / n_decided

    def _learn_at_exits(self, texts: Sequence[Text], n_decided: int) -> float:
        """Learn at drawn exits, as a part of a step of so many tokens; the sum of the KLs there."""
        taught = self.pair.teach(texts)
        exit_N = self.pair.draw_exits(taught, self.options.kl_factor, self._new_draws(texts))
        return self.pair.learn(taught, exit_N, n_decided).sum().item()

    def rate(self) -> float:
        """The learning rate: linear warm-up, then linearly down to 0 where tokens or minutes end."""
        return self.learning_rate * max(0.0, min(self.done / WARM_UP, (1 - self.done) / (1 - WARM_UP)))

    @property
    def done(self) -> float:
        """The fraction of the training that is done, by tokens or minutes."""
        return max(self.seen / self.most_tokens, self.seconds / self.most_seconds)

    def follow(self, texts: Sequence[Text]) -> None:
        if self.curve.is_due(self.seen):
            self._add_point(texts)

    def _add_point(self, texts: Sequence[Text]) -> None:
        multiplying = self.operations / self.multiply_rate / self.seconds if self.seconds else 0.0
        found = measure(self.loss, self._some_blocks(texts))
        self.curve.add(Point(self.seen, self.seconds, multiplying, *found))

    @property
    def gains_too_little(self) -> bool:
        gain, least = self.curve.gain(), self.options.until
        return gain is not None and least is not None and gain < least

    def _new_draws(self, texts: Sequence[Text]) -> Tensor:
        """Uniform draws, (N,), that no other step has."""
        seed, steps = self.options.seed, self.steps
        return decided(
            [training_draws(seed, steps, list(text.prompt_token_ids), len(text.token_ids)) for text in texts]
        )

    def same_draws(self, texts: Sequence[Text]) -> Tensor:
        """The draws, (N,), that choose the exits of these texts in a sweep."""
        seed = self.options.seed
        return decided([exit_draws(seed, list(text.prompt_token_ids), len(text.token_ids)) for text in texts])

    def state(self) -> dict[str, Tensor]:
        reached = [self.steps, self.seconds, self.operations, self.loss.weight]
        return super().state() | {"reached": torch.tensor(reached, dtype=torch.float64), **self.parameters}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        steps, self.seconds, self.operations, self.loss.weight = state["reached"].tolist()
        self.steps = int(steps)
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    def finish(self) -> None:
        some = self._some_blocks(self.texts, PROBE_TOKENS)
        self.probes = fit_probes(self.pair, some, self.options.kl_factor, self.same_draws)

    def weights(self) -> dict[str, Tensor]:
        return Probe(self.probes).tensors()

    def save_further(self, folder: Path) -> None:
        save_adapter(self.pair.model, folder)

    def held_out_loss(self, texts: Sequence[Text]) -> float | None:
        """Mean KL(teacher's final ‖ student's at the exit), nats, with the draws of a sweep."""
        kls = []
        for some in self._some_blocks(texts):
            taught = self.pair.teach(some)
            exit_N = self.pair.draw_exits(taught, self.options.kl_factor, self.same_draws(some))
            kls.append(self.pair.compare(taught, exit_N).kl_BE[:, 0])
        return torch.cat(kls).mean().item()

    def tables(self, texts: Sequence[Text]) -> Tables:
        some = self._some_blocks(texts)
        factor = self.options.kl_factor
        if not self.curve.points or self.curve.points[-1].tokens < self.seen:
            self._add_point(texts)
        every = (*self.layers, self.pair.reader.final)
        return {
            "learning": [row for point in self.curve.points for row in point.rows(every)],
            "exits": exits_table(self.pair, some, self.same_draws),
            **student_probe_tables(self.pair, self.probes, some, factor, self.same_draws),
        }

    def _some_blocks(self, texts: Sequence[Text], most_tokens: int = MEASURED_TOKENS) -> list[list[Text]]:
        """Some of these texts, of about so many tokens, drawn: all would take longer than to learn from them."""
        usable = [text for text in texts if len(text.token_ids) > 1]
        drawn = blocks(Random(0).sample(usable, len(usable)), most_tokens)[0]
        return blocks(drawn, TOKENS_AT_A_TIME)


def decided(draws: Sequence[np.ndarray]) -> Tensor:
    """The draws of the decided tokens of some texts, (N,): all but each one's first."""
    return torch.from_numpy(np.concatenate([of_text[1:] for of_text in draws]))


def exits_table(pair: Pair, some_texts: Sequence[Sequence[Text]], draw: Draw) -> list[Row]:
    """At each KL factor, before and after: a row for all tokens (layer None), and one per exit layer.

    Before is the base model itself, with the same exits and what they leave. KLs are from the teacher's final layer, in
    nats, and agreement is how often the likeliest token is the teacher's.
    """
    found: dict[tuple[float, str], list[tuple[Tensor, Divergence]]] = {}
    for texts in some_texts:
        taught, u_N = pair.teach(texts), draw(texts)
        for factor in KL_FACTORS:
            exit_N = pair.draw_exits(taught, factor, u_N)
            for when, context in (("before", pair.model.disable_adapter()), ("after", nullcontext())):
                with context:
                    read = pair.compare(taught, exit_N)
                found.setdefault((factor, when), []).append((exit_N, read))
    return [row for (factor, when), parts in found.items() for row in _rows(factor, when, parts)]


def _rows(factor: float, when: str, parts: Sequence[tuple[Tensor, Divergence]]) -> Iterator[Row]:
    exit_N = torch.cat([exit_N for exit_N, _ in parts])
    kl_N = torch.cat([read.kl_BE[:, 0] for _, read in parts])
    agrees_N = torch.cat([read.likeliest_BX[:, 0] == read.likeliest_BX[:, 1] for _, read in parts]).float()
    for layer in (None, *exit_N.unique().tolist()):
        counted_N = torch.ones_like(exit_N, dtype=torch.bool) if layer is None else exit_N == layer
        yield {
            "kl_factor": factor,
            "when": when,
            "layer": layer,
            "n": int(counted_N.sum()),
            "mean_kl": kl_N[counted_N].mean().item(),
            "median_kl": kl_N[counted_N].median().item(),
            "agreement": agrees_N[counted_N].mean().item(),
        }
