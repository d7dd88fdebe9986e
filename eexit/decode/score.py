"""Scoring: where the tokens of a given text exit, and how probable they are there, without generating it.

A text is scored in one pass, layer by layer and in parallel over its tokens, since what happens at a layer depends only
on decisions at the layers below it. In float32, exits are those that generating the text would have drawn; in other
dtypes, a pass over many tokens rounds otherwise, and a few differ. An oracle needs two passes: the full-depth one that
it looks at, and then the student's. Several texts behind one prompt share its pass, and go through the layers together.

Shapes: B texts, T tokens of a text, D = B · T of them, E exitable layers, X = E + 1 with the final layer last, H width
of what the head takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.exit_pass import Deciding, decide, exit_pass
from eexit.decode.reading import Reading, read_layers
from eexit.decode.requests import Decoders, Decoding, Request
from eexit.decode.rows import NONE, Rows, to_device
from eexit.decode.student import Leaving, Student
from eexit.decode.teacher import prefill, teacher_pass
from eexit.method.stick_breaking import exit_draws
from eexit.model.layers import Decoder, Inputs

SCORED_TOKENS: Final = 256  # at a time, for bounded memory: later ones see what earlier ones left


@dataclass(frozen=True)
class Scored:
    """What `Trace` has of the same name; the first token is not decided, and comes from the prompt's pass.

    Behind an empty prompt, it comes from nowhere: its log-probability and the head's input are NaN, and its likeliest
    token is -1.
    """

    exit_layer_T: np.ndarray
    exit_token_T: np.ndarray  # the likeliest tokens of the distributions that the given ones were read from
    exit_logprob_T: np.ndarray  # of the given tokens, nats
    exit_prob_TX: np.ndarray
    evidence_TE: np.ndarray
    exit_ready_TH: Tensor  # what went into the head where the tokens were read

    @classmethod
    def joined(cls, parts: Sequence["Scored"]) -> "Scored":
        columns: dict[str, Any] = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        ready_TH = torch.cat(columns.pop("exit_ready_TH"))
        return cls(**{name: np.concatenate(arrays) for name, arrays in columns.items()}, exit_ready_TH=ready_TH)

    def of(self, tokens: slice) -> "Scored":
        """Some of the tokens alone."""
        return Scored(**{field.name: getattr(self, field.name)[tokens] for field in fields(self)})


def score(
    decoder: Decoder, decoding: Decoding, request: Request, token_ids: Sequence[int], student: Decoder | None = None,
    u_exit_T: np.ndarray | None = None,
) -> Scored:  # fmt: skip
    """Score the text `token_ids` (at least one token) behind a request's prompt, under its configuration and seed.

    `u_exit_T` takes the place of the seed's draws of exits. A draw of 1 exits nowhere, so that the rule looks at every
    exitable layer and `exit_prob_TX` is known for all of them. A `student` with weights of its own takes the decoder's
    place in all modes but `normal`, as in `engine.Engine`.

    Raises `ValueError` for a parameter that does not fit the exitable layers.
    """
    [scored] = score_texts(decoder, decoding, request, [token_ids], student, u_exit_T)
    return scored


@torch.inference_mode()
def score_texts(
    decoder: Decoder, decoding: Decoding, request: Request, texts: Sequence[Sequence[int]],
    student: Decoder | None = None, u_exit_T: np.ndarray | None = None,
) -> list[Scored]:  # fmt: skip
    """Score several texts, each by itself, behind the same prompt and with the same draws; otherwise as `score`."""
    decoders = Decoders.of(decoder, student).under(request.configuration)
    longest = max(map(len, texts))
    if u_exit_T is None:
        u_exit_T = exit_draws(request.seed, list(request.prompt_token_ids), longest)
    scoring = _Texts(decoders, decoding, request, texts, u_exit_T)
    parts = [[scoring.first(text[0])] for text in texts]
    size = max(1, SCORED_TOKENS // len(texts))
    for start in range(1, longest, size):
        end = min(start + size, longest)
        scored = scoring.score(start, end)
        for index, text in enumerate(texts):
            first = index * (end - start)
            parts[index].append(scored.of(slice(first, first + max(0, min(end, len(text)) - start))))
    return [Scored.joined(of_text) for of_text in parts]


class _Texts:
    """Texts that are being scored, behind one prompt, with the keys and values of their student, and of their teacher
    for an oracle. Shorter ones are padded on the right, where no token looks at them."""

    def __init__(
        self, decoders: Decoders, decoding: Decoding, request: Request, texts: Sequence[Sequence[int]],
        u_exit_T: np.ndarray,
    ):  # fmt: skip
        self.decoders, self.decoding, self.u_exit_T = decoders, decoding, u_exit_T
        # Of an empty prompt's pass, nothing is used but the shapes of keys and values.
        prompt, self.n_prompt = request.prompt_token_ids or (texts[0][0],), len(request.prompt_token_ids)
        self.prompt = prefill(decoders, decoding, [prompt], len(prompt))
        self.n_texts, n_tokens = len(texts), max(map(len, texts))
        self.token_BT = torch.tensor([[*text, *[0] * (n_tokens - len(text))] for text in texts], device=self.device)
        # What is asked of rows is asked of texts; what they generate is there already.
        self.rows = Rows(len(texts), replace(decoding, max_new_tokens=1), [request], decoders.teacher)
        for slot in range(len(texts)):
            self.rows.add(slot, slot, request, 0)
        self.is_oracle, length = request.is_oracle, self.n_prompt + n_tokens
        self.student = Student(decoders.student, decoders.student.cache(self.n_texts, length), decoding.exitable_layers)
        self.teacher = decoders.teacher.cache(self.n_texts, length)  # empty, but for an oracle
        slots = torch.arange(self.n_texts, device=self.device)
        self.student.cache.copy_rows(self.prompt.student, torch.zeros_like(slots), slots)
        if self.is_oracle:
            self.teacher.copy_rows(self.prompt.teacher, torch.zeros_like(slots), slots)

    @property
    def device(self) -> torch.device:
        return self.decoders.teacher.device

    def first(self, token: int) -> Scored:
        """Score this token as the first one of a text, which comes from the prompt's pass, or from nowhere."""
        reading, n_exits = self.prompt.reading, len(self.decoding.exitable_layers)
        ready_1H = self.decoders.teacher.normed(self.prompt.final_UW)
        logprob = float(reading.logprob(torch.tensor([token], device=self.device)))
        likeliest = reading.likeliest_BX[:, -1].cpu().numpy()
        if not self.n_prompt:
            logprob, likeliest, ready_1H = np.nan, np.full_like(likeliest, NONE), torch.full_like(ready_1H, torch.nan)
        prob_1X, evidence_1E = np.eye(n_exits + 1)[-1:], np.full((1, n_exits), np.nan)
        return Scored(self.rows.layer_X[-1:], likeliest, np.array([logprob]), prob_1X, evidence_1E, ready_1H)

    def score(self, start: int, end: int) -> Scored:
        """Score the tokens at these indices of each text, behind those that were scored before: D of them."""
        n_tokens, n_texts = end - start, self.n_texts
        asked, [u_T] = self.rows.asked, to_device([self.u_exit_T[start:end].copy()], self.device)
        rule_D, parameter_DE = (each.repeat_interleave(n_tokens, 0) for each in (asked.rule_B, asked.parameter_BE))
        u_D, given_D = u_T.repeat(n_texts), self.token_BT[:, start:end].flatten()
        deciding = Deciding(self.rows.rules, rule_D, parameter_DE, u_D, u_D, self.rows.all_exit, given_D)
        first = self.n_prompt + start - 1
        position_T = torch.arange(first, first + n_tokens, device=self.device)
        seen_BC = torch.ones(n_texts, first + n_tokens, dtype=torch.bool, device=self.device)
        inputs = Inputs(self.token_BT[:, start - 1 : end - 1], position_T.expand(n_texts, -1), seen_BC)
        known = decide(deciding, self._taught(inputs))
        taken = exit_pass(
            Leaving.of(self.student, self.rows, n_texts), self.decoding, inputs, deciding, known, keeps_ready=True
        )
        exit_layer_D, picked = self.student.layer_X[taken.exit_D], taken.picked
        seen = exit_layer_D, picked.likeliest_B, picked.log_p_B, taken.prob_DX, taken.evidence_DE
        layer_D, token_D, log_p_D, prob_DX, evidence_DE = (part.cpu().numpy() for part in seen)
        return Scored(layer_D, token_D, log_p_D, prob_DX, evidence_DE, taken.ready_DH)

    def _taught(self, inputs: Inputs) -> Reading | None:
        """What the teacher says of these tokens, if the rule is an oracle."""
        if not self.is_oracle:
            return None
        exits = [*self.decoding.exitable_layers, self.decoders.teacher.n_layers - 1]
        streams_BTXW = teacher_pass(self.decoders.teacher, exits, inputs, self.teacher, slice(None))
        return read_layers(self.decoders.teacher, streams_BTXW.flatten(0, 1), self.decoding)
