"""Scores of a text, token by token, by the naive reference: `eexit.decode.score` has to agree with them."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from reference.generation import LEAVE, ExitKVCache, draw, leaving, read_after, read_exits, run
from reference.rules import RuleInputs, stops_of
from transformers import DynamicCache, PreTrainedModel

from eexit.decode.requests import DecodingConfig, Request
from eexit.method.modes import MODES
from eexit.method.rules import ONLINE
from eexit.method.stick_breaking import exit_draws
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit


@torch.inference_mode()
def score_naively(
    model: PreTrainedModel, decoder: Decoder, decoding: DecodingConfig, request: Request, text: Sequence[int]
) -> list[tuple[int, float, int]]:
    """Return exit layer, log-probability and likeliest token per token but the first, by an online rule or none."""
    configuration, mode = request.configuration, request.configuration.mode
    assert not isinstance(configuration, EarlyExit) or configuration.rule in ONLINE
    u_exit = exit_draws(request.seed, list(request.prompt_token_ids), len(text))
    student, final = ExitKVCache(DynamicCache(config=model.config)), decoder.n_layers - 1
    if request.prompt_token_ids:
        run(model, decoder, torch.tensor([request.prompt_token_ids]), student)
    scored = []
    for place, (before, token) in enumerate(pairwise(text), 1):
        inputs, choice = torch.tensor([[before]]), len(decoding.exitable_layers)
        if isinstance(configuration, EarlyExit):
            full = run(model, decoder, inputs, copy.deepcopy(student))
            streams = [stream[0, -1] for stream in full.hidden_states]
            seen = RuleInputs(
                [], [], streams[-1], streams, read_exits(decoder, decoding, full), decoding.exitable_layers, None
            )
            choice = draw(stops_of(configuration.rule, seen, configuration.parameter)[0], float(u_exit[place]))
        exit_layer = [*decoding.exitable_layers, final][choice]
        with leaving(decoder, decoding, mode, exit_layer):
            own = run(model, decoder, inputs, student)
        if mode in MODES and (leaves := MODES[mode].fill) in LEAVE:
            LEAVE[leaves](student, exit_layer)
        logits = own.logits[0, -1] if exit_layer == final else read_after(decoder, decoding, own, exit_layer)
        log_p = logits.float().log_softmax(-1)
        assert not math.isnan(float(log_p[token]))
        scored.append((exit_layer, float(log_p[token]), int(log_p.argmax())))
    return scored
