"""Scoring: where the tokens of a given text exit, and how probable they are there, without generating it.

A text is scored in one pass, layer by layer and in parallel over its tokens, since what happens at a layer depends only
on decisions at the layers below it. In float32, exits are those that generating the text would have drawn; in other
dtypes, a pass over many tokens rounds otherwise, and a few differ. An oracle needs two passes: the full-depth one that
it looks at, and then the student's. Several texts behind one prompt share its pass, and go through the layers together.

Shapes: S texts, T tokens of a text, N tokens in a pass, E exitable layers, X = E + 1 with the final layer last, W width
of the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.exit_pass import Deciding, exit_pass
from eexit.decode.layer_reading import Reading
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Request
from eexit.decode.rows.slots import NONE, RuleOfRows, find_layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.rows.waiting import Waiting
from eexit.decode.teacher import prefill, read_texts
from eexit.decode.token_pass import StudentRows, Tokens
from eexit.method.draws import exit_draws
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.plan.configuration import Exit

SCORED_TOKENS: Final = 256  # at a time, for bounded memory: later ones see what earlier ones left


@dataclass(frozen=True)
class Scored:
    """What `Trace` has of the same name; the first token is not decided, and comes from the prompt's pass.

    Behind an empty prompt, it comes from nowhere: its log-probability and stream are NaN, its likeliest token is -1.
    """

    exit_layer_T: np.ndarray
    exit_token_T: np.ndarray  # the likeliest tokens of the distributions that the given ones were read from
    exit_logprob_T: np.ndarray  # of the given tokens, nats
    exit_prob_TX: np.ndarray
    evidence_TE: np.ndarray
    exit_hidden_TW: Tensor  # the residual streams that the tokens were read from

    @classmethod
    def joined(cls, parts: Sequence["Scored"]) -> "Scored":
        columns: dict[str, Any] = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        hidden_TW = torch.cat(columns.pop("exit_hidden_TW"))
        return cls(**{name: np.concatenate(arrays) for name, arrays in columns.items()}, exit_hidden_TW=hidden_TW)

    def of(self, tokens: np.ndarray) -> "Scored":
        """Some of the tokens alone."""
        [at] = to_device([tokens], self.exit_hidden_TW.device)
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        hidden_TW = columns.pop("exit_hidden_TW")[at]
        return Scored(**{name: column[tokens] for name, column in columns.items()}, exit_hidden_TW=hidden_TW)


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
        indices = [np.arange(start, min(start + size, len(text))) for text in texts]
        slot_N = np.repeat(np.arange(len(texts)), [len(text_indices) for text_indices in indices])
        scored = scoring.score(slot_N, np.concatenate(indices))
        for slot, of_text in enumerate(parts):
            of_text.append(scored.of(np.flatnonzero(slot_N == slot)))
    return [Scored.joined(of_text) for of_text in parts]


class _Texts:
    """Texts that are being scored, with the keys and values of their student, and of their teacher for an oracle."""

    def __init__(
        self,
        decoders: Decoders,
        decoding: Decoding,
        request: Request,
        texts: Sequence[Sequence[int]],
        u_exit_T: np.ndarray,
    ):
        self.decoders, self.decoding, self.u_exit_T = decoders, decoding, u_exit_T
        self.layers = find_layers(decoding.exitable_layers, decoders.teacher.n_layers)
        # Of an empty prompt's pass, nothing is used but the shapes of keys and values.
        self.prompt = prefill(decoders, decoding, self.layers, request.prompt_token_ids or (texts[0][0],))
        self.n_prompt, n_tokens = len(request.prompt_token_ids), max(map(len, texts))
        self.token_ids_ST = np.zeros((len(texts), n_tokens), np.int64)
        for slot, text in enumerate(texts):
            self.token_ids_ST[slot, : len(text)] = text
        configuration = request.configuration
        self.rules: list[RuleOfRows] = []
        self.states: list[str] = []
        self.parameter_E, self.is_oracle = np.zeros(len(decoding.exitable_layers)), request.is_oracle
        if isinstance(configuration, Exit):
            self.rules = [RuleOfRows.of(configuration, decoding.exitable_layers)]
            self.states = [configuration.state]
            self.parameter_E[:] = configuration.per_layer(decoding.exitable_layers)
        n_texts, length = len(texts), self.n_prompt + n_tokens
        self.teacher, cache = KVCache(n_texts, length), KVCache(n_texts, length)
        for held, keys in ((cache, self.prompt.student), (self.teacher, self.prompt.teacher))[: 1 + self.is_oracle]:
            held.load(slice(0, n_texts), keys, range(self.layers.n_layers), self.n_prompt)
        start_S, state_S = np.full(n_texts, self.n_prompt), np.full(n_texts, 0 if self.states else NONE)
        waiting = Waiting(decoders.student, self.layers, start_S, state_S, n_tokens, n_kept=0)
        self.student = StudentRows(
            decoders.student, self.layers.segments, cache, self.states, waiting, maps=decoding.state_maps
        )

    def first(self, token: int) -> Scored:
        """Score this token as the first one of a text, which comes from the prompt's pass, or from nowhere."""
        reading, hidden_1W, n_exits = self.prompt.reading, self.prompt.states_1XW[:, -1], len(self.layers.exits)
        logprob = float(reading.logprob(torch.tensor([token], device=hidden_1W.device)))
        likeliest = reading.likeliest_BX[:, -1].cpu().numpy()
        if not self.n_prompt:
            logprob, likeliest, hidden_1W = np.nan, np.full_like(likeliest, NONE), torch.full_like(hidden_1W, torch.nan)
        prob_1X, evidence_1E = np.eye(n_exits)[-1:], np.full((1, n_exits - 1), np.nan)
        return Scored(self.layers.exits[-1:], likeliest, np.array([logprob]), prob_1X, evidence_1E, hidden_1W)

    def score(self, slot: np.ndarray, index: np.ndarray) -> Scored:
        """Score the tokens at these indices of these texts, behind those that were scored before."""
        tokens = Tokens(slot, index - 1, self.token_ids_ST[slot, index - 1])
        rule = np.full(len(index), 0 if self.rules else NONE)
        rule_N, parameter_NE, u_N, given_N = to_device(
            [
                rule,
                np.tile(self.parameter_E.astype(np.float32), (len(index), 1)),
                self.u_exit_T[index],
                self.token_ids_ST[slot, index],
            ],
            self.decoders.student.device,
        )
        deciding = Deciding(self.rules, rule, rule_N, parameter_NE, u_N, u_N, given_N)
        taken = exit_pass(self.student, self.decoding, tokens, deciding, self._taught(tokens))
        seen = taken.picked.likeliest_B, taken.picked.log_p_B, taken.prob_DX, taken.evidence_DE
        token_D, logprob_D, prob_DX, evidence_DE = (part.cpu().numpy() for part in seen)
        exit_layer_D = self.layers.exits[taken.exit_D]
        return Scored(exit_layer_D, token_D, logprob_D, prob_DX, evidence_DE, taken.hidden_DW)

    def _taught(self, tokens: Tokens) -> Reading | None:
        """What the teacher says of these tokens, if the rule is an oracle."""
        if not self.is_oracle:
            return None
        start_S, exits = self.student.waiting.start_S, self.layers.exits
        return read_texts(self.decoders.teacher, self.decoding, exits, self.teacher, tokens, start_S)
