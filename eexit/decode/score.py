"""Scoring: where the tokens of a given text exit, and how probable they are there, without generating it.

Decisions at a layer depend on the layers up to it alone, so all tokens of a text go through the layers in one pass. In
float32, exits are those of generating the text; in other dtypes, a pass over many tokens rounds differently, and a few
exits differ. An oracle's full-depth pass runs first. Several texts with the same prompt share its prefill, and a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.deferred import DeferredTokens
from eexit.decode.exit_visitor import NONE, ExitVisitor
from eexit.decode.full_depth import full_depth_pass, prefill
from eexit.decode.groups import ExitPlan
from eexit.decode.predictors import HeadReading, LMHead
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.slots import undecided
from eexit.method.stick_breaking import uniform_draws
from eexit.model.cache import KVCache
from eexit.model.decoders import DecoderPair
from eexit.model.devices import to_device
from eexit.model.layers import Decoder, ForwardInputs
from eexit.plan.configuration import EarlyExit
from eexit.results.token_columns import PromptExits

SCORED_TOKENS: Final = 256  # at a time, for bounded memory: later ones attend to the KV cache of earlier ones


@dataclass(frozen=True)
class ScoredText:
    """Exits and predictions for a given text: columns of `RequestOutput`, and more.

    Without prompt exits, the first token comes from prefill, without an exit. With an empty prompt, its log-probability
    and head input are NaN, and its likeliest token is -1.
    """

    exit_layer_T: np.ndarray
    exit_token_T: np.ndarray  # the likeliest tokens of the distributions that the given tokens were read from
    exit_logprob_T: np.ndarray  # of the given tokens, nats
    exit_prob_TX: np.ndarray
    exit_score_TE: np.ndarray
    exit_ready_TF: Tensor  # head inputs at exits


@torch.inference_mode()
def score_texts(
    decoder: Decoder, decoding: DecodingConfig, request: Request, texts: Sequence[Sequence[int]],
    student: Decoder | None = None, u_exit_T: np.ndarray | None = None,
) -> list[ScoredText]:  # fmt: skip
    """Score texts (at least one token each) after a request's prompt, each by itself and with the same draws.

    A `student` decodes the early-exit pass in all modes but `normal`, as in `engine.Engine`. `u_exit_T` are uniform
    draws of exits in place of the seed's. A draw of 1 exits nowhere, so that the rule reads every exitable layer and
    all of `exit_prob_TX` is known. Raise `ValueError` for a parameter that does not fit the exitable layers.
    """
    early_exit = student if isinstance(request.configuration, EarlyExit) else None
    decoders = DecoderPair(decoder, early_exit or decoder)
    longest, all_ids = max(map(len, texts)), request.prompt_token_ids
    given = all_ids if request.configuration.prompt_exits else ()  # tokens of the prompt that exit as those of texts
    prompt = () if given else all_ids
    if u_exit_T is None:
        u_exit_T = uniform_draws("exit", request.seed, all_ids, longest)
    u_prompt_T = uniform_draws("prompt", request.seed, given, max(0, len(given) - 1))
    draws = [*u_prompt_T, *u_exit_T[0 if given else 1 :]]
    padded = np.array([[*given, *text, *[0] * (longest - len(text))] for text in texts])  # no token attends to padding
    token_BT, u_T = to_device([padded, np.array(draws, np.float32)], decoder.device)

    # 1. The prompt is prefilled. Of an empty one, only the shapes of its KV cache are used.
    n_prompt = len(prompt)
    reading, caches = prefill(decoders, decoding, [prompt or (padded[0, 0],)], max(1, n_prompt))
    given_pass = GivenTokensPass(decoders, decoding, request, len(texts), n_prompt + token_BT.shape[1])
    slot_B = torch.arange(len(texts), device=decoder.device)
    given_pass.early_exit.cache.copy_rows(caches[decoders.early_exit], torch.zeros_like(slot_B), slot_B)
    if request.is_oracle:
        given_pass.full_depth.copy_rows(caches[decoder], torch.zeros_like(slot_B), slot_B)
    parts = [_first_tokens(given_pass.full_depth_head, reading, token_BT[:, 0], bool(prompt))]

    # 2. Tokens go through the layers, behind those that were scored before.
    for visitor, head_input_BTF in given_pass.run(token_BT, u_T, n_prompt):
        head_input_NF, tokens = visitor.finish(head_input_BTF), visitor.next_tokens
        exit_layer_N, prob_NX = visitor.plan.layer_X[visitor.exit_N], visitor.probabilities()
        columns = exit_layer_N, tokens.top_token_N, tokens.log_p_N, prob_NX, visitor.plan.score_NE, head_input_NF
        parts.append([column.unflatten(0, visitor.shape) for column in columns])
    scored: list[Any] = [torch.cat(column, 1)[:, len(given) :] for column in zip(*parts, strict=True)]
    scored[:-1] = [column.cpu().numpy() for column in scored[:-1]]  # head inputs stay on the device
    return [ScoredText(*(column[at, : len(text)] for column in scored)) for at, text in enumerate(texts)]


@torch.inference_mode()
def exit_in_prompt(
    decoders: DecoderPair, decoding: DecodingConfig, request: Request, end: int
) -> tuple[PromptExits, KVCache]:
    """Run a prompt's tokens but the last, before column `end`; return exits and the early-exit pass's KV cache."""
    token_ids = request.prompt_token_ids
    draws = uniform_draws("prompt", request.seed, token_ids, len(token_ids) - 1)
    token_1T, u_T = to_device([np.array([token_ids]), draws], decoders.full_depth.device)
    given_pass, none_T = GivenTokensPass(decoders, decoding, request, 1, end), token_1T[0, :0]
    parts = [(none_T, u_T.new_zeros(0, len(decoding.exitable_layers)), none_T)]
    for visitor, _ in given_pass.run(token_1T, u_T, 0, end - len(u_T)):
        exit_layer_T = visitor.plan.layer_X[visitor.exit_N]
        parts.append((exit_layer_T, visitor.plan.score_NE, (exit_layer_T.max() + 1).expand_as(exit_layer_T)))
    exits = PromptExits(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))
    return exits, given_pass.early_exit.cache


class GivenTokensPass:
    """Early-exit pass of given tokens, with its KV cache; for oracles, a full-depth pass goes before it."""

    def __init__(self, decoders: DecoderPair, decoding: DecodingConfig, request: Request, n_texts: int, length: int):
        """Make room for texts of up to `length` tokens."""
        self.request, self.full_depth_head = request, LMHead(decoders.full_depth, decoding)
        self.full_depth, cache = (each.cache(n_texts, length) for each in (decoders.full_depth, decoders.early_exit))
        self.early_exit = DeferredTokens(LMHead(decoders.early_exit, decoding), cache)

    def run(
        self, token_BT: Tensor, u_T: Tensor, position: int, first_column: int = 0
    ) -> Iterator[tuple[ExitVisitor, Tensor]]:
        """Run all tokens but the last, in blocks; yield each block's visitor, and its head inputs, (B, T, F).

        `u_T` are uniform draws of exits. The first token has `position`, and position 0 is in `first_column`.
        """
        head, decoder, n_texts = self.early_exit.head, self.full_depth_head.decoder, len(token_BT)
        plan = ExitPlan.from_configurations([self.request.configuration], head.decoding, decoder, 1)
        size = max(1, SCORED_TOKENS // n_texts)
        for start in range(0, len(u_T), size):
            input_BT, forced_BT = (some_BT[:, start : start + size] for some_BT in (token_BT[:, :-1], token_BT[:, 1:]))
            first, last = position + start, position + start + input_BT.shape[1]
            position_BT = torch.arange(first, last, device=decoder.device).expand(n_texts, -1)
            attention_mask_BC = torch.ones(n_texts, last, dtype=torch.bool, device=decoder.device)
            inputs = ForwardInputs(input_BT, position_BT, attention_mask_BC, first_column)
            u_N = u_T[start : start + size].repeat(n_texts)
            part = replace(
                plan, parameter_NE=plan.parameter_NE.expand(len(u_N), -1), u_exit_N=u_N, u_token_N=u_N,
                forced_N=forced_BT.flatten(), can_all_exit=not plan.defers, defers=False,
            )  # fmt: skip
            reference = None
            if self.request.is_oracle:
                layers = self.full_depth_head.layers
                hidden_BTXD = full_depth_pass(decoder, layers, inputs, self.full_depth, slice(None))
                reference = self.full_depth_head.read_layers(hidden_BTXD.flatten(0, 1))
            part.decide(reference)
            visitor = ExitVisitor(head, part, forced_BT.shape)
            yield visitor, self.early_exit.run(visitor, inputs)


def _first_tokens(head: LMHead, reading: HeadReading, token_B: Tensor, has_prompt: bool) -> list[Tensor]:
    """Return the recorded columns of the texts' first tokens, (B, 1, …), which come from prefill."""
    reading = reading.expand(torch.zeros_like(token_B))
    top_token_B, logprob_B = reading.top_token_BX[:, -1], reading.logprob(token_B)
    head_input_BF = reading.head_input_UXF[reading.prefix_B, -1]
    if not has_prompt:
        top_token_B, logprob_B = torch.full_like(top_token_B, NONE), torch.full_like(logprob_B, torch.nan)
        head_input_BF = torch.full_like(head_input_BF, torch.nan)
    exit_layer_B, prob_BX, score_BE = undecided(head.layers, token_B).values()
    return [column[:, None] for column in (exit_layer_B, top_token_B, logprob_B, prob_BX, score_BE, head_input_BF)]
