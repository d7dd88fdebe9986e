"""Mode `draft` by definition: one row, plain loops, nothing kept between drafting and verifying.

It is slow on purpose, as `eexit.reference.generation`, and shares with the engine what that does.

Shapes: V vocabulary.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from eexit.decode.costs import Rounds
from eexit.decode.requests import Decoding, Request, Trace
from eexit.decode.sampling import pick_tokens
from eexit.method.stick_breaking import exit_draws, sampling_draws
from eexit.model.layers import Decoder
from eexit.plan.configuration import Draft
from eexit.plan.runs import EOS, LENGTH
from eexit.reference.generation import kl_divergence, read_after, read_exits, said


@torch.inference_mode()
def draft_one(model: PreTrainedModel, decoder: Decoder, request: Request, decoding: Decoding) -> Trace:
    """Generate one row; `decoder` is made from `model`, and only reads residual streams."""
    draft, prompt = request.configuration, list(request.prompt_token_ids)
    assert isinstance(draft, Draft)
    u_accept = exit_draws(request.seed, prompt, decoding.max_new_tokens)
    u_token = sampling_draws(request.seed, prompt, decoding.max_new_tokens)

    def forward(tokens: list[int], cache: Any) -> Any:
        inputs = torch.tensor([tokens], device=model.device)
        return model(inputs, cache=cache, use_cache=True, output_hidden_states=True)

    def pick(logits_V: Tensor, position: int) -> int:
        u = torch.tensor([u_token[position]], device=model.device)
        return int(pick_tokens(logits_V[None], decoding.temperature, decoding.top_p, u))

    cache = DynamicCache(config=model.config)
    full = forward(prompt, cache)
    token = pick(full.logits[0, -1], 0)
    steps = [recorded(decoder, decoding, full, token, drafted=False)]
    rounds: list[list[int]] = []
    while len(steps) < decoding.max_new_tokens and token not in decoding.eos_token_ids:
        ahead = min(draft.n_tokens, decoding.max_new_tokens - len(steps) - 1)
        input_index, accepted, rejected = len(steps) - 1, 0, 0
        drafts: list[tuple[int, Tensor]] = []
        drafting, last = copy.deepcopy(cache), token
        for i in range(ahead):
            early_logits = read_after(decoder, decoding, forward([last], drafting), draft.layer)
            last = pick(early_logits, input_index + 1 + i)
            drafts.append((last, early_logits))
        for i in range(ahead + 1):
            full = forward([token], cache)
            logits, position = full.logits[0, -1], input_index + 1 + i
            if i < ahead and decoding.temperature > 0:
                token = accept_or_draw(logits, drafts[i], float(u_accept[position]), decoding)
            else:
                token = pick(logits, position)
            agrees = i < ahead and token == drafts[i][0]
            accepted, rejected = accepted + agrees, rejected + (i < ahead and not agrees)
            steps.append(recorded(decoder, decoding, full, token, drafted=agrees))
            if not agrees or token in decoding.eos_token_ids:
                break
        rounds.append([input_index, ahead, accepted, rejected])
    finish_reason = EOS if token in decoding.eos_token_ids else LENGTH
    columns = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    return Trace(finish_reason=finish_reason, counts=None, rounds=Rounds.of(rounds), **columns)


def accept_or_draw(logits_V: Tensor, draft: tuple[int, Tensor], u: float, decoding: Decoding) -> int:
    """The draft with chance min(1, p / q); otherwise, with the same uniform, a token in proportion to (p − q)₊."""
    drafted, draft_logits_V = draft
    p, q = (nucleus(logits, decoding) for logits in (logits_V, draft_logits_V))
    accept = p[drafted] / q[drafted]
    if u < accept:
        return drafted
    rest = [max(0.0, p_token - q_token) for p_token, q_token in zip(p, q, strict=True)]
    target = (u - accept) / (1 - accept) * sum(rest)
    cumulative = 0.0
    for token, weight in enumerate(rest):
        cumulative += weight
        if cumulative > target:
            return token
    return max(token for token, weight in enumerate(rest) if weight > 0)


def nucleus(logits_V: Tensor, decoding: Decoding) -> list[float]:
    """The probabilities that tokens are sampled with."""
    p = torch.softmax(logits_V.float() / decoding.temperature, -1).tolist()
    kept = [0.0] * len(p)
    for token in sorted(range(len(p)), key=lambda token: -p[token]):
        if sum(kept) >= decoding.top_p:
            break
        kept[token] = p[token]
    return [probability / sum(kept) for probability in kept]


def recorded(decoder: Decoder, decoding: Decoding, full: Any, token: int, drafted: bool) -> dict[str, Any]:
    """What is recorded of a token that full depth says."""
    logits, exit_logits = full.logits[0, -1], read_exits(decoder, decoding, full)
    return {
        "token_id_T": token,
        "exit_layer_T": decoder.n_layers - 1,
        "drafted_T": drafted,
        "kl_TE": [kl_divergence(logits, exit_logits_V) for exit_logits_V in exit_logits],
        "exit_prob_TX": [*[0.0] * len(exit_logits), 1.0],
        "evidence_TE": [np.nan] * len(exit_logits),
        **said(token, exit_logits, logits, logits, decoding.record_top_k),
    }
