"""Mode `draft` by definition: one row, plain loops, nothing kept between drafting and verifying.

It is slow on purpose, as `reference.generation`, and shares with the engine what that does.
"""

from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from eexit.costs.operations import DraftRounds
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.model.layers import Decoder
from eexit.plan.configuration import Draft
from eexit.plan.runs import EOS, LENGTH
from reference.generation import copy_cache, read_after, read_exits, said


@torch.inference_mode()
def draft_one(model: PreTrainedModel, decoder: Decoder, request: Request, decoding: DecodingConfig) -> RequestOutput:
    """Generate one row; `decoder` is made from `model`, and only reads residual streams."""
    draft, prompt = request.configuration, list(request.prompt_token_ids)
    assert isinstance(draft, Draft)

    def forward(tokens: list[int], cache: Any) -> Any:
        inputs = torch.tensor([tokens], device=model.device)
        return model(inputs, cache=cache, use_cache=True, output_hidden_states=True)

    cache = DynamicCache(config=model.config)
    full = forward(prompt, cache)
    token = int(full.logits[0, -1].argmax())
    steps = [recorded(decoder, decoding, full, token, drafted=False)]
    rounds: list[list[int]] = []
    while len(steps) < decoding.max_new_tokens and token not in decoding.eos_token_ids:
        ahead = min(draft.n_tokens, decoding.max_new_tokens - len(steps) - 1)
        input_index, accepted, rejected = len(steps) - 1, 0, 0
        drafts: list[int] = []
        drafting, last = copy_cache(cache), token
        for _ in range(ahead):
            last = int(read_after(decoder, decoding, forward([last], drafting), draft.layer).argmax())
            drafts.append(last)
        for i in range(ahead + 1):
            full = forward([token], cache)
            logits = full.logits[0, -1]
            token = int(logits.argmax())
            agrees = i < ahead and token == drafts[i]
            accepted, rejected = accepted + agrees, rejected + (i < ahead and not agrees)
            steps.append(recorded(decoder, decoding, full, token, drafted=agrees))
            if not agrees or token in decoding.eos_token_ids:
                break
        rounds.append([input_index, ahead, accepted, rejected])
    finish_reason = EOS if token in decoding.eos_token_ids else LENGTH
    columns: dict[str, Any] = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    counted = DraftRounds(*np.array(rounds, np.int64).reshape(-1, 4).T)
    return RequestOutput(finish_reason=finish_reason, counts=None, rounds=counted, **columns)


def recorded(decoder: Decoder, decoding: DecodingConfig, full: Any, token: int, drafted: bool) -> dict[str, Any]:
    """What is recorded of a token that full depth says."""
    logits, exits = full.logits[0, -1], read_exits(decoder, decoding, full)
    at_the_end = {"exit_prob_TX": [*[0.0] * len(exits), 1.0], "exit_score_TE": [np.nan] * len(exits)}
    of_token = said(token, exits, logits, logits, decoding.record_top_k, drafted)
    return of_token | at_the_end | {"exit_layer_T": decoder.n_layers - 1}
