"""Scoring: where the tokens of a given text exit, and how probable they are there, without generating it.

A text is scored in one pass, layer by layer and in parallel over its tokens, since what happens at a layer depends only
on decisions at the layers below it. In float32, exits are those that generating the text would have drawn; in other
dtypes, a pass over many tokens rounds otherwise, and a few differ. An oracle needs two passes: the full-depth one that
it looks at, and then the student's. Several texts behind one prompt share its pass, and go through the layers together.

Shapes: B texts, T tokens of a text, N = B · T of them, E exitable layers, X = E + 1 with the final layer last, F width
of a head input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.deferred import DeferredTokens
from eexit.decode.exit_visitor import NONE, ExitVisitor
from eexit.decode.full_depth import full_depth_pass, prefill
from eexit.decode.groups import ExitPlan, SlotGroup, criterion_of
from eexit.decode.predictors import FullDepthReference, LMHead
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.slots import to_device
from eexit.method.modes import MODES, Mode
from eexit.method.stick_breaking import exit_draws
from eexit.model.decoders import DecoderPair
from eexit.model.layers import Decoder, ForwardInputs
from eexit.plan.configuration import EarlyExit

SCORED_TOKENS: Final = 256  # at a time, for bounded memory: later ones see what earlier ones left


@dataclass(frozen=True)
class ScoredText:
    """What `RequestOutput` has of the same name; the first token is not decided, and comes from the prompt's pass.

    Behind an empty prompt, it comes from nowhere: its log-probability and the head's input are NaN, and its likeliest
    token is -1.
    """

    exit_layer_T: np.ndarray
    exit_token_T: np.ndarray  # the likeliest tokens of the distributions that the given ones were read from
    exit_logprob_T: np.ndarray  # of the given tokens, nats
    exit_prob_TX: np.ndarray
    exit_score_TE: np.ndarray
    exit_ready_TF: Tensor  # what went into the head where the tokens were read

    @classmethod
    def joined(cls, parts: Sequence["ScoredText"]) -> "ScoredText":
        columns: dict[str, Any] = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        ready_TF = torch.cat(columns.pop("exit_ready_TF"))
        return cls(**{name: np.concatenate(arrays) for name, arrays in columns.items()}, exit_ready_TF=ready_TF)

    def of(self, tokens: slice) -> "ScoredText":
        """Some of the tokens alone."""
        return ScoredText(**{field.name: getattr(self, field.name)[tokens] for field in fields(self)})


def score(
    decoder: Decoder, decoding: DecodingConfig, request: Request, token_ids: Sequence[int],
    student: Decoder | None = None, u_exit_T: np.ndarray | None = None,
) -> ScoredText:  # fmt: skip
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
    decoder: Decoder, decoding: DecodingConfig, request: Request, texts: Sequence[Sequence[int]],
    student: Decoder | None = None, u_exit_T: np.ndarray | None = None,
) -> list[ScoredText]:  # fmt: skip
    """Score several texts, each by itself, behind the same prompt and with the same draws; otherwise as `score`."""
    decoders = DecoderPair.from_decoders(decoder, student if isinstance(request.configuration, EarlyExit) else None)
    longest = max(map(len, texts))
    if u_exit_T is None:
        u_exit_T = exit_draws(request.seed, list(request.prompt_token_ids), longest)
    scoring = _TextScorer(decoders, decoding, request, texts, u_exit_T)
    parts = [[scoring.first(text[0])] for text in texts]
    size = max(1, SCORED_TOKENS // len(texts))
    for start in range(1, longest, size):
        end = min(start + size, longest)
        scored = scoring.score(start, end)
        for index, text in enumerate(texts):
            first = index * (end - start)
            parts[index].append(scored.of(slice(first, first + max(0, min(end, len(text)) - start))))
    return [ScoredText.joined(of_text) for of_text in parts]


class _TextScorer:
    """Texts scored behind one prompt: the KV caches of their early-exit pass and, for an oracle, of full depth.

    Shorter ones are padded on the right, where no token attends to them.
    """

    def __init__(
        self, decoders: DecoderPair, decoding: DecodingConfig, request: Request, texts: Sequence[Sequence[int]],
        u_exit_T: np.ndarray,
    ):  # fmt: skip
        self.decoding, self.is_oracle, self.device = decoding, request.is_oracle, decoders.full_depth.device
        # Of an empty prompt's pass, nothing is used but the shapes of keys and values.
        prompt, self.n_prompt = request.prompt_token_ids or (texts[0][0],), len(request.prompt_token_ids)
        self.reference, caches = prefill(decoders, decoding, [prompt], len(prompt))
        self.n_texts, n_tokens = len(texts), max(map(len, texts))
        token_BT = np.array([[*text, *[0] * (n_tokens - len(text))] for text in texts])
        exits, layers = request.configuration, decoding.exitable_layers
        parameter_E = exits.per_layer(layers) if isinstance(exits, EarlyExit) else np.zeros(len(layers))
        self.layers = np.array([*layers, decoders.full_depth.n_layers - 1])
        sent = (token_BT, np.array(parameter_E, np.float32), np.array(u_exit_T, np.float32), self.layers)
        self.token_BT, self.parameter_E, self.u_T, self.layer_X = to_device(sent, self.device)
        self.groups, self.modes = list[SlotGroup](), list[tuple[Mode, Tensor | None]]()
        if isinstance(exits, EarlyExit):
            self.groups, self.modes = (
                [SlotGroup(*criterion_of(exits, layers), slice(None))],
                [(MODES[exits.mode], None)],
            )
        length, slot = self.n_prompt + n_tokens, torch.arange(self.n_texts, device=self.device)
        self.head, self.full_depth = LMHead(decoders.early_exit, decoding), LMHead(decoders.full_depth, decoding)
        self.deferred = DeferredTokens(self.head, decoders.early_exit.cache(self.n_texts, length))
        self.cache = decoders.full_depth.cache(self.n_texts, length)  # empty, but for an oracle
        self.deferred.cache.copy_rows(caches[decoders.early_exit], torch.zeros_like(slot), slot)
        if self.is_oracle:
            self.cache.copy_rows(caches[decoders.full_depth], torch.zeros_like(slot), slot)

    def first(self, token: int) -> ScoredText:
        """Score this token as the first one of a text, which comes from prefill, or from nowhere."""
        reference, n_exits = self.reference, len(self.decoding.exitable_layers)
        head_input_1F = self.full_depth.decoder.head_input(reference.hidden_UXD[:, -1])
        logprob = float(reference.logprob(torch.tensor([token], device=self.device)))
        likeliest = reference.likeliest_BX[:, -1].cpu().numpy()
        if not self.n_prompt:
            nowhere = torch.full_like(head_input_1F, torch.nan)
            logprob, likeliest, head_input_1F = np.nan, np.full_like(likeliest, NONE), nowhere
        prob_1X, score_1E = np.eye(n_exits + 1)[-1:], np.full((1, n_exits), np.nan)
        return ScoredText(self.layers[-1:], likeliest, np.array([logprob]), prob_1X, score_1E, head_input_1F)

    def score(self, start: int, end: int) -> ScoredText:
        """Score the tokens at these indices of each text, behind those that were scored before: D of them."""
        n_tokens, n_texts = end - start, self.n_texts
        u_N, first = self.u_T[start:end].repeat(n_texts), self.n_prompt + start - 1
        plan = ExitPlan(
            self.groups, self.modes, [rank for group in self.groups for rank in group.ranks], self.layer_X,
            self.parameter_E.expand(len(u_N), -1), u_N, u_N,
            can_all_exit=bool(self.modes) and all(mode.modifies_kv for mode, _ in self.modes),
            next_token_N=self.token_BT[:, start:end].flatten(),
        )  # fmt: skip
        position_T = torch.arange(first, first + n_tokens, device=self.device)
        attention_mask_BC = torch.ones(n_texts, first + n_tokens, dtype=torch.bool, device=self.device)
        inputs = ForwardInputs(self.token_BT[:, start - 1 : end - 1], position_T.expand(n_texts, -1), attention_mask_BC)
        decided = plan.decide(self._reference(inputs))
        visitor = ExitVisitor(self.head, plan, decided, (n_texts, n_tokens))
        tokens, exit_layer_N = visitor.finish(self.deferred.run(visitor, inputs)), self.layer_X[visitor.exit_N]
        found = exit_layer_N, tokens.likeliest_N, tokens.log_p_N, visitor.probabilities(), decided.score_NE
        layer_N, token_N, log_p_N, prob_NX, score_NE = (part.cpu().numpy() for part in found)
        assert visitor.head_input_NF is not None, "every token was read"
        return ScoredText(layer_N, token_N, log_p_N, prob_NX, score_NE, visitor.head_input_NF)

    def _reference(self, inputs: ForwardInputs) -> FullDepthReference | None:
        """Return what full depth predicts after these tokens, if the rule is an oracle."""
        if not self.is_oracle:
            return None
        hidden_BTXD = full_depth_pass(self.full_depth.decoder, self.layers.tolist(), inputs, self.cache, slice(None))
        return self.full_depth.read_layers(hidden_BTXD.flatten(0, 1))
