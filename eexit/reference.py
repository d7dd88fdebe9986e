"""Early exit as it is defined: one row, plain loops, two caches. Slow on purpose; the specification in code.

The batched engine must give the same tokens, exits and KLs. Nothing here is shared with it but the draws, the pick of
a token from logits, and the readout of a residual stream, which is checked against the model's own logits.

Shapes: E exitable layers, V vocabulary.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from eexit.anatomy import Decoder
from eexit.config import Mode
from eexit.draws import exit_draws, sampling_draws
from eexit.readout import pick_tokens
from eexit.rows import Decoding, Request, Trace
from eexit.schema import EOS, LENGTH


@torch.inference_mode()
def generate_one(model: PreTrainedModel, decoder: Decoder, request: Request, decoding: Decoding) -> Trace:
    """Generate one row, token by token. `decoder` is `model`'s; it reads residual streams, no more."""
    prompt = list(request.prompt_token_ids)
    u_exit = exit_draws(request.seed, prompt, decoding.max_new_tokens)
    u_token = sampling_draws(request.seed, prompt, decoding.max_new_tokens)
    final = decoder.n_layers - 1
    teacher_cache, student_cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    tokens, steps = prompt, []
    finish_reason = LENGTH
    for position in range(decoding.max_new_tokens):
        inputs = torch.tensor([tokens], device=model.device)
        teacher = model(inputs, cache=teacher_cache, use_cache=True, output_hidden_states=True)
        final_logits = teacher.logits[0, -1]
        exit_logits = [
            decoder.read(teacher.hidden_states[layer + 1][:, -1], norm=decoding.readout == "lens")[0]
            for layer in decoding.exitable_layers
        ]
        kls = [kl_divergence(final_logits, logits) for logits in exit_logits]
        if position == 0:
            student_cache = copy.deepcopy(teacher_cache)  # the prompt is always processed at full depth
        if position == 0 or request.mode == Mode.NORMAL:
            probabilities, choice = [0.0] * len(kls) + [1.0], len(kls)
        else:
            assert request.kl_factor is not None
            probabilities = stick_breaking(kls, request.kl_factor)
            choice = draw(kls, request.kl_factor, float(u_exit[position]))
        exit_layer = [*decoding.exitable_layers, final][choice]
        logits = [*exit_logits, final_logits][choice]
        if request.mode == Mode.FROZEN_RESIDUAL and position > 0:
            with residual_frozen_after(decoder.layers, exit_layer):
                student = model(inputs, cache=student_cache, use_cache=True, output_hidden_states=True)
            logits = student.logits[0, -1]
            if decoding.readout == "raw" and exit_layer != final:
                logits = decoder.read(student.hidden_states[exit_layer + 1][:, -1], norm=False)[0]
        u = torch.tensor([u_token[position]], device=model.device)
        token = int(pick_tokens(logits[None], decoding.temperature, decoding.top_p, u))
        log_p = final_logits.float().log_softmax(-1)
        entropy = float(-(log_p.exp() * log_p).sum())
        tops = [layer.float().softmax(-1).topk(decoding.record_top_k) for layer in (*exit_logits, final_logits)]
        top_ids, top_probs = [top.indices.tolist() for top in tops], [top.values.tolist() for top in tops]
        logprob, final_token = float(log_p[token]), int(final_logits.argmax())
        exit_log_p = logits.float().log_softmax(-1)
        exit_top = exit_log_p.exp().topk(decoding.record_top_k)
        of_exit = (float(exit_log_p[token]), exit_top.indices.tolist(), exit_top.values.tolist())
        of_teacher = (logprob, final_token, entropy, top_ids, top_probs)
        steps.append((token, exit_layer, kls, probabilities, *of_teacher, *of_exit))
        if token in decoding.eos_token_ids:
            finish_reason = EOS
            break
        tokens = [token]
    columns = [np.array(column) for column in zip(*steps, strict=True)]
    return Trace(finish_reason, *columns)


def kl_divergence(final_logits_V: Tensor, exit_logits_V: Tensor) -> float:
    """Σ_v p_final·(log p_final − log p_exit), in nats."""
    log_final_V = final_logits_V.float().log_softmax(-1)
    log_exit_V = exit_logits_V.float().log_softmax(-1)
    return max(0.0, float((log_final_V.exp() * (log_final_V - log_exit_V)).sum()))


def stop_chance(kl: float, kl_factor: float) -> float:
    """The chance to exit at a layer that is reached: 2·sigmoid(−k·KL)."""
    return 2 / (1 + math.exp(min(kl_factor * kl, 700.0)))


def stick_breaking(kls: list[float], kl_factor: float) -> list[float]:
    """The probability of each exitable layer, then of the final one."""
    probabilities, remaining = [], 1.0
    for kl in kls:
        s = stop_chance(kl, kl_factor)
        probabilities.append(s * remaining)
        remaining *= 1 - s
    return [*probabilities, remaining]


def draw(kls: list[float], kl_factor: float, u: float) -> int:
    """The first exitable layer whose cumulative probability exceeds u, as an index; E for the final layer."""
    remaining = 1.0
    for index, kl in enumerate(kls):
        remaining *= 1 - stop_chance(kl, kl_factor)
        if 1 - remaining > u:
            return index
    return len(kls)


@contextmanager
def residual_frozen_after(layers: list[nn.Module], exit_layer: int) -> Iterator[None]:
    """Deeper layers hand the residual stream on unchanged; their keys and values come from it all the same."""

    def hand_on(_: nn.Module, args: tuple, output: object) -> object:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    handles = [layer.register_forward_hook(hand_on) for layer in layers[exit_layer + 1 :]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
