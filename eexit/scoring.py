"""Scoring: where the tokens of a given text exit, and how probable they are there, without generating it.

A text is scored in one pass, layer by layer and in parallel over its tokens, since what happens at a layer depends only
on decisions at the layers below it. Exits are those that generating the text would have drawn. An oracle needs two
passes: the full-depth one that it looks at, and then the student's.

Shapes: T tokens of the text, N of them in a pass, E exitable layers, X = E + 1 with the final layer last, W width of
the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.anatomy import Decoder
from eexit.cache import KVCache
from eexit.decoders import Decoders
from eexit.draws import exit_draws
from eexit.exit_pass import Deciding, ExitPass, Known, Tokens, known_exits
from eexit.oracle import oracle_exits
from eexit.rows import Decoding, Request
from eexit.rules import ORACLES, RULES
from eexit.slots import NONE, Layers, find_layers
from eexit.states import STATES
from eexit.teacher import Prefilled, prefill, read_texts
from eexit.transfer import to_device

SCORED_TOKENS: Final = 256  # at a time, for bounded memory: later ones see what earlier ones left


@dataclass(frozen=True)
class Scored:
    """What `Trace` has of the same name; the first token is not decided, and comes from the prompt's pass."""

    exit_layer_T: np.ndarray
    exit_token_T: np.ndarray  # the likeliest tokens of the distributions that the given ones were read from
    exit_logprob_T: np.ndarray  # of the given tokens, nats
    exit_prob_TX: np.ndarray
    evidence_TE: np.ndarray
    exit_hidden_TW: Tensor  # the residual streams that the tokens were read from

    @classmethod
    def joined(cls, parts: Sequence["Scored"]) -> "Scored":
        columns: dict[str, Any] = {its.name: [getattr(part, its.name) for part in parts] for its in fields(cls)}
        hidden_TW = torch.cat(columns.pop("exit_hidden_TW"))
        return cls(**{name: np.concatenate(its) for name, its in columns.items()}, exit_hidden_TW=hidden_TW)


@torch.inference_mode()
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
    layers = find_layers(decoding.exitable_layers, decoder.n_layers, ())
    decoders = Decoders.of(decoder, student).under(request.configuration)
    prefilled = prefill(decoders, decoding, layers, request.prompt_token_ids)
    if u_exit_T is None:
        u_exit_T = exit_draws(request.seed, list(request.prompt_token_ids), len(token_ids))
    text = _Text(decoders, decoding, layers, request, np.array(token_ids, np.int64), u_exit_T, prefilled)
    parts = [_first(layers, prefilled, token_ids[0])]
    waiting = Tokens.none(decoder)
    for start in range(1, len(token_ids), SCORED_TOKENS):
        scored, waiting = text.score(np.arange(start, min(start + SCORED_TOKENS, len(token_ids))), waiting)
        parts.append(scored)
    return Scored.joined(parts)


def _first(layers: Layers, prefilled: Prefilled, token: int) -> Scored:
    n_exits = len(layers.exits)
    logprob = float(prefilled.reading.logprob(torch.tensor([token], device=prefilled.states_1XW.device)))
    likeliest = prefilled.reading.likeliest_BX[:, -1].cpu().numpy()
    prob_1X, evidence_1E = np.eye(n_exits)[-1:], np.full((1, n_exits - 1), np.nan)
    hidden_1W = prefilled.states_1XW[:, -1]
    return Scored(layers.exits[-1:], likeliest, np.array([logprob]), prob_1X, evidence_1E, hidden_1W)


class _Text:
    """A text that is being scored, with the keys and values of its student, and of its teacher for an oracle."""

    def __init__(
        self, decoders: Decoders, decoding: Decoding, layers: Layers, request: Request, token_ids: np.ndarray,
        u_exit_T: np.ndarray, prompt: Prefilled,
    ):  # fmt: skip
        self.decoders, self.decoding, self.layers, self.token_ids = decoders, decoding, layers, token_ids
        self.u_exit_T = u_exit_T
        self.n_prompt, n_tokens = len(request.prompt_token_ids), len(token_ids)
        configuration = request.configuration
        self.rules = [configuration.rule] if configuration.rule else []
        self.states = [configuration.mode] if configuration.mode in STATES else []
        self.setting_E = np.zeros(len(decoding.exitable_layers))
        for rule in self.rules:
            self.setting_E[:] = RULES[rule].setting(configuration.parameter, decoding.exitable_layers)
        self.student, self.teacher = (KVCache(1, self.n_prompt + n_tokens) for _ in range(2))
        self.is_oracle = configuration.rule in ORACLES
        for cache, keys in ((self.student, prompt.student), (self.teacher, prompt.teacher))[: 1 + self.is_oracle]:
            cache.load(slice(0, 1), keys, range(layers.n_layers), self.n_prompt)

    def score(self, decided: np.ndarray, waiting: Tokens) -> tuple[Scored, Tokens]:
        """Score these tokens of the text; returns those that have exited and do not have all layers yet."""
        zero = np.zeros_like(decided)
        position, before = self.n_prompt + decided - 1, self.token_ids[decided - 1]
        setting_NE, u_N, given_N = to_device(
            [
                np.tile(self.setting_E.astype(np.float32), (len(decided), 1)),
                self.u_exit_T[decided],
                self.token_ids[decided],
            ],
            self.decoders.student.device,
        )
        deciding = Deciding(zero if self.rules else zero + NONE, setting_NE, u_N, u_N, given_N)
        state = zero if self.states else zero + NONE
        tokens = waiting.behind(Tokens(zero, position, before, state, zero, waiting.hidden_NW))
        done = ExitPass(
            self.decoders.student, self.decoding, self.layers, self.student, self.rules, self.states, tokens, deciding,
            self._known(position, before, deciding),
        )  # fmt: skip
        taken = done.run()
        seen = taken.picked.likeliest_B, taken.picked.log_p_B, taken.prob_DX, taken.evidence_DE
        token_D, logprob_D, prob_DX, evidence_DE = (part.cpu().numpy() for part in seen)
        exit_layer_D = self.layers.exits[taken.exit_D]
        scored = Scored(exit_layer_D, token_D, logprob_D, prob_DX, evidence_DE, taken.hidden_DW)
        return scored, done.tokens.of(np.flatnonzero(done.tokens.next_N < self.layers.n_layers))

    def _known(self, position: np.ndarray, before: np.ndarray, deciding: Deciding) -> Known:
        """Exits that are known before the student's pass; an oracle has them all from the teacher's."""
        if not self.is_oracle:
            return known_exits(self.rules, deciding)
        decoder, slot = self.decoders.teacher, np.zeros_like(position)
        reading = read_texts(decoder, self.decoding, self.layers, self.teacher, slot, position, before)
        return oracle_exits(self.rules, reading, deciding)
