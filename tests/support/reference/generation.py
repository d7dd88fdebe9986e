"""Early exit by definition: one row, plain loops, two caches. It is slow on purpose: this is the specification in code.

The batched engine must give the same tokens, exits and KLs. All it shares with this module are the uniform draws,
sampling a token from logits, and norm and head of the readout, which are checked against the model's own logits.

Shapes: E exitable layers, V vocabulary.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.decode.sampling import pick_tokens
from eexit.method.kv_maps import STREAMS, KVMaps
from eexit.method.layer_call import ExitContext
from eexit.method.linear_map import LinearMap
from eexit.method.modes import MODES, Mode, SkippedLayer
from eexit.method.readouts import LinearReadout, RawReadout
from eexit.method.rules import ONLINE
from eexit.method.screen import Screen
from eexit.method.stick_breaking import uniform_draws
from eexit.model.layers import Decoder
from eexit.plan.configuration import NORMAL, Configuration, EarlyExit
from eexit.plan.runs import EOS, LENGTH
from eexit.results.token_columns import PromptExits
from reference.rules import RuleInputs, js_divergence, stops_of


@dataclass(frozen=True)
class ReferenceRow:
    """What a row is generated with: the teacher, its decoder, which only reads streams, and the student's own ones."""

    model: PreTrainedModel
    decoder: Decoder
    own_model: PreTrainedModel
    own_decoder: Decoder
    configuration: Configuration
    decoding: DecodingConfig

    @property
    def is_online(self) -> bool:
        return isinstance(self.configuration, EarlyExit) and self.configuration.rule in ONLINE

    @property
    def fill(self) -> str:
        mode = self.configuration.mode
        return MODES[mode].fill if mode in MODES else "full depth"

    @property
    def has_own_cache(self) -> bool:
        return self.own_model is not self.model or self.fill in LEAVE

    @property
    def ranks(self) -> list[int]:
        """Where the rule looks, among the exitable layers."""
        layers = self.configuration.layers if isinstance(self.configuration, EarlyExit) else ()
        return [self.decoding.exitable_layers.index(layer) for layer in layers or self.decoding.exitable_layers]


@torch.inference_mode()
def generate_one(
    model: PreTrainedModel, decoder: Decoder, request: Request, decoding: DecodingConfig,
    student_model: tuple[PreTrainedModel, Decoder] | None = None, forced: Sequence[int] = (),
) -> RequestOutput:  # fmt: skip
    """Generate one row, token by token, by a model, or by a teacher and a student with weights of its own.

    Forced tokens are given. Behind no prompt, the first of them is given without a prediction. With prompt exits, the
    prompt's tokens are run one by one, as generated ones are.
    """
    configuration = request.configuration
    own = (model, decoder) if student_model is None or configuration.mode == NORMAL else student_model
    row = ReferenceRow(model, decoder, *own, configuration, decoding)
    prompt = list(request.prompt_token_ids)
    u_exit = uniform_draws("exit", request.seed, prompt, decoding.max_new_tokens)
    u_token = uniform_draws("sample", request.seed, prompt, decoding.max_new_tokens)
    u_prompt = uniform_draws("prompt", request.seed, prompt, max(0, len(prompt) - 1))
    teacher_cache = DynamicCache(config=model.config)
    tokens, start = prompt or [forced[0]], int(not prompt)
    if configuration.prompt_exits:
        tokens, start = prompt[:1], 1 - len(prompt)
    steps, of_prompt = list[dict[str, Any]](), list[tuple[int, list[float]]]()
    finish_reason = LENGTH
    student = ExitKVCache(DynamicCache(config=row.own_model.config))
    for position in range(start, decoding.max_new_tokens):
        inputs = torch.tensor([tokens], device=model.device)
        teacher = teach(row, inputs, teacher_cache)
        if position == 0 and not configuration.prompt_exits:  # the prompt is always processed at full depth
            if row.own_model is row.model:
                student = ExitKVCache(copy_cache(teacher_cache))
            else:
                run(row.own_model, row.own_decoder, inputs, student)
        stops, evidence = [0.0] * len(teacher.kls), [math.nan] * len(teacher.kls)  # where no exit is drawn
        is_decided = position > 0 or configuration.prompt_exits
        if is_decided and isinstance(configuration, EarlyExit):
            stops, evidence = decide(row, configuration, inputs, student, teacher)
        choice = draw(stops, float(u_exit[position] if position >= 0 else u_prompt[position - start]))
        exit_layer = [*decoding.exitable_layers, decoder.n_layers - 1][choice]
        probabilities, evidence = as_known(row, stops, evidence, choice)
        logits = [*teacher.exit_logits, teacher.final_logits][choice]
        if row.has_own_cache and is_decided:
            logits = run_student(row, inputs, student, exit_layer)
        if position < 0:
            of_prompt.append((exit_layer, evidence))
            tokens = [prompt[position - start + 1]]
            continue
        u = torch.tensor([u_token[position]], device=model.device)
        picked = pick_tokens(logits[None], decoding.temperature, decoding.top_p, u)
        token = forced[position] if forced else int(picked)
        exit = {"exit_layer_T": exit_layer, "exit_prob_TX": probabilities, "exit_score_TE": evidence}
        steps.append(exit | said(token, teacher.exit_logits, teacher.final_logits, logits, decoding.record_top_k))
        if token in decoding.eos_token_ids:
            finish_reason = EOS
            break
        tokens = [token]
    columns = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    exits = [exit_layer for exit_layer, _ in of_prompt]
    evidence_TE = np.array([its for _, its in of_prompt]).reshape(len(exits), len(decoding.exitable_layers))
    exits_T = PromptExits(np.array(exits, np.int64), evidence_TE, np.zeros(0)) if configuration.prompt_exits else None
    return RequestOutput(finish_reason=finish_reason, counts=None, rounds=None, prompt=exits_T, **columns)


@dataclass(frozen=True)
class FullDepthOutput:
    """What full depth says after a token: the model's output, and by layer logits (V,) and KLs in nats."""

    output: Any
    final_logits: Tensor
    exit_logits: list[Tensor]
    kls: list[float]


def teach(row: ReferenceRow, inputs: Tensor, cache: DynamicCache) -> FullDepthOutput:
    """Run the teacher at full depth."""
    output = row.model(inputs, cache=cache, use_cache=True, output_hidden_states=True)
    final, exits = output.logits[0, -1], read_exits(row.decoder, row.decoding, output)
    return FullDepthOutput(output, final, exits, [kl_divergence(final, each) for each in exits])


def decide(
    row: ReferenceRow, configuration: EarlyExit, inputs: Tensor, student: "ExitKVCache", teacher: FullDepthOutput
) -> tuple[list[float], list[float]]:
    """The chance to stop at each exitable layer, and what the rule saw there: 0 and NaN where it doesn't look."""
    decoding, own = row.decoding, teacher.output
    if row.is_online and row.has_own_cache:  # a full-depth pass, the student's up to its exit
        own = run(row.own_model, row.own_decoder, inputs, ExitKVCache(copy_cache(student.cache), student.hidden))
    streams = [stream[0, -1] for stream in own.hidden_states]
    layers = tuple(decoding.exitable_layers[rank] for rank in row.ranks)
    own_logits = [read_after(row.own_decoder, decoding, own, layer) for layer in layers]
    if screen := decoding.screen:
        own_logits = [through_screen(screen, row.own_decoder, decoding, own, layer) for layer in layers]
    of_set = [teacher.kls[rank] for rank in row.ranks], [teacher.exit_logits[rank] for rank in row.ranks]
    seen = RuleInputs(*of_set, teacher.final_logits, streams, own_logits, layers, decoding.probe)
    stops, evidence = [0.0] * len(teacher.kls), [math.nan] * len(teacher.kls)
    for rank, stop, saw in zip(row.ranks, *stops_of(configuration.rule, seen, configuration.parameter), strict=True):
        layer = decoding.exitable_layers[rank]
        if lets_through(decoding, configuration, streams[layer + 1], layer):
            stops[rank], evidence[rank] = stop, saw
    return stops, evidence


def as_known(
    row: ReferenceRow, stops: list[float], evidence: list[float], choice: int
) -> tuple[list[float], list[float]]:
    """The probability of each layer, and the evidence, as far as the rule looks: an online one up to its exit."""
    probabilities, n_layers = stick_breaking(stops), len(stops)
    if not row.is_online:
        return probabilities, evidence
    beyond = 0.0 if 1.0 in stops[: choice + 1] else math.nan
    later = [beyond if rank in row.ranks or rank == n_layers else 0.0 for rank in range(choice + 1, n_layers + 1)]
    return probabilities[: choice + 1] + later, evidence[: choice + 1] + [math.nan] * (n_layers - choice - 1)


def run_student(row: ReferenceRow, inputs: Tensor, student: "ExitKVCache", exit_layer: int) -> Tensor:
    """Run a token that exits after this layer, and leaves to deeper ones what the mode says; return its logits (V,)."""
    decoder, mode = row.own_decoder, MODES.get(row.configuration.mode)
    handles = handing_on_after(decoder.layers, exit_layer if row.fill in LEAVE else decoder.n_layers - 1)
    if mode and mode.fill in ("hidden", "kv", "maps"):
        handles += filling_after(decoder, mode, row.decoding.kv_maps if mode.fill == "maps" else None, exit_layer)
    with removing(handles):
        own = run(row.own_model, decoder, inputs, student)
    if row.fill in LEAVE:
        LEAVE[row.fill](student, exit_layer)
    logits: Tensor = own.logits[0, -1]
    is_final = exit_layer == decoder.n_layers - 1
    return logits if is_final else read_after(decoder, row.decoding, own, exit_layer)


def lets_through(decoding: DecodingConfig, configuration: EarlyExit, stream_W: Tensor, layer: int) -> bool:
    """Whether the gate, if there is one, gives the rule at least the threshold's chance to exit at this layer."""
    if configuration.gate is None:
        return True
    assert decoding.gate
    held, index = decoding.gate.maps[layer], decoding.gate.rules.index(configuration.gated_rule)
    log_odds = float(stream_W.float() @ held.weight[:, index]) + float(held.bias[index])
    return 1 / (1 + math.exp(-log_odds)) >= float(configuration.gate)


def read_after(decoder: Decoder, decoding: DecodingConfig, output: Any, layer: int) -> Tensor:
    """The logits (V,) of the last token after an exitable layer, from the model's output."""
    readout, hidden_1W = decoding.readout, output.hidden_states[layer + 1][:, -1]
    ready_1H = decoder.head_input(hidden_1W, with_norm=not isinstance(readout, RawReadout))
    if isinstance(readout, LinearReadout):
        ready_1H = ready_1H @ readout.maps[layer].weight + readout.maps[layer].bias
    return decoder.lm_head(ready_1H)[0]


def through_screen(screen: Screen, decoder: Decoder, decoding: DecodingConfig, output: Any, layer: int) -> Tensor:
    """The logits after any layer, −∞ but for the tokens that the screen finds likeliest, in full."""
    hidden_1W = output.hidden_states[layer + 1][:, -1]
    if layer == decoder.n_layers - 1:  # of which transformers returns the stream behind the norm
        ready_H, logits_V = hidden_1W[0], output.logits[0, -1]
    else:
        ready_H = decoding.readout.before_head(decoder, hidden_1W, layer)[0]
        logits_V = read_after(decoder, decoding, output, layer)
    down_R = screen.down_RF @ ready_H
    rough_V = torch.stack([row_R @ down_R for row_R in screen.up_VR])
    if screen.bias_V is not None:
        rough_V = rough_V + screen.bias_V
    outside_V = torch.ones_like(logits_V, dtype=torch.bool)
    outside_V[rough_V.topk(screen.n_tokens).indices] = False
    screened_V: Tensor = logits_V.masked_fill(outside_V, -math.inf)
    return screened_V


def read_exits(decoder: Decoder, decoding: DecodingConfig, output: Any) -> list[Tensor]:
    """The logits (V,) of the last token after each exitable layer, from the model's output."""
    return [read_after(decoder, decoding, output, layer) for layer in decoding.exitable_layers]


def said(
    token: int, exit_logits: list[Tensor], final_logits: Tensor, logits: Tensor, record_top_k: int,
    drafted: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What is recorded of a token and the distributions: those of the full-depth pass, and the one it was read from."""
    log_p, exit_log_p = final_logits.float().log_softmax(-1), logits.float().log_softmax(-1)
    tops = [layer.float().softmax(-1).topk(record_top_k) for layer in (*exit_logits, final_logits)]
    exit_top = exit_log_p.exp().topk(record_top_k)
    return {
        "token_id_T": token,
        "drafted_T": drafted,
        "kl_TE": [kl_divergence(final_logits, each) for each in exit_logits],
        "jsd_TE": [js_divergence(final_logits, each) for each in exit_logits],
        "logprob_T": float(log_p[token]),
        "exit_logprob_T": float(exit_log_p[token]),
        "final_token_id_T": int(final_logits.argmax()),
        "entropy_T": float(-(log_p.exp() * log_p).sum()),
        "top_token_ids_TXK": [top.indices.tolist() for top in tops],
        "top_prob_TXK": [top.values.tolist() for top in tops],
        "exit_top_token_ids_TK": exit_top.indices.tolist(),
        "exit_top_prob_TK": exit_top.values.tolist(),
    }


def kl_divergence(final_logits_V: Tensor, exit_logits_V: Tensor) -> float:
    """Σ_v p_final·(log p_final − log p_exit), in nats."""
    log_final_V = final_logits_V.float().log_softmax(-1)
    log_exit_V = exit_logits_V.float().log_softmax(-1)
    return max(0.0, float((log_final_V.exp() * (log_final_V - log_exit_V)).sum()))


@dataclass
class ExitKVCache:
    """What a deployed model has of a row: keys and values, and the positions that it does not attend to, by layer."""

    cache: Any
    hidden: dict[int, set[int]] = field(default_factory=dict)


def copy_cache(cache: DynamicCache) -> DynamicCache:
    """Return a copy with keys and values of its own; a deep copy takes several times as long."""
    ours, layers = copy.copy(cache), list[Any](map(copy.copy, cache.layers))
    for layer in layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    ours.layers = layers
    return ours


def run(model: PreTrainedModel, decoder: Decoder, inputs: Tensor, student: ExitKVCache) -> Any:
    """The model's own forward, with the student's keys and values and without its hidden positions."""
    with hiding(decoder.layers, student):
        return model(inputs, cache=student.cache, use_cache=True, output_hidden_states=True)


def leave_cache_frozen(student: ExitKVCache, exit_layer: int) -> None:
    """Copy the exit layer's keys and values at the last position to every layer past the exit."""
    held = student.cache.layers[exit_layer]
    for layer in student.cache.layers[exit_layer + 1 :]:
        layer.keys[:, :, -1], layer.values[:, :, -1] = held.keys[:, :, -1], held.values[:, :, -1]


def leave_nothing(student: ExitKVCache, exit_layer: int) -> None:
    """Hide the last position in layers past the exit."""
    for layer in range(exit_layer + 1, len(student.cache.layers)):
        student.hidden.setdefault(layer, set()).add(student.cache.get_seq_length() - 1)


LEAVE: dict[str, Callable[[ExitKVCache, int], None]] = {
    # Keys and values past the exit are there already: `handing_on_after` had them made from the stream at the exit,
    # `filling_after` as the mode's function says, or by the maps.
    **dict.fromkeys(("hidden at the exit", "hidden", "kv", "maps"), lambda student, exit_layer: None),
    "copy": leave_cache_frozen,
    "none": leave_nothing,
}


def stick_breaking(stops: list[float]) -> list[float]:
    """The probability of each exitable layer, then of the final one."""
    probabilities, remaining = [], 1.0
    for stop in stops:
        probabilities.append(stop * remaining)
        remaining *= 1 - stop
    return [*probabilities, remaining]


def draw(stops: list[float], u: float) -> int:
    """The first exitable layer whose cumulative probability exceeds u, as an index; E for the final layer."""
    remaining = 1.0
    for index, stop in enumerate(stops):
        remaining *= 1 - stop
        if 1 - remaining > u:
            return index
    return len(stops)


@contextmanager
def removing(handles: list[Any]) -> Iterator[None]:
    """A context at whose end these hooks are removed."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def handing_on_after(layers: list[nn.Module], exit_layer: int) -> list[Any]:
    """Hooks by which layers past the exit still write keys and values, but return the residual stream unchanged."""

    def hand_on(_: nn.Module, args: tuple[Any, ...], output: object) -> object:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    return [layer.register_forward_hook(hand_on) for layer in layers[exit_layer + 1 :]]


def filling_after(decoder: Decoder, mode: Mode, maps: KVMaps | None, exit_layer: int) -> list[Any]:
    """Hooks by which layers past the exit make keys and values as the mode's function says, or by this exit's maps.

    Maps are of layers past the next one.
    """
    seen: dict[str, Tensor] = {}  # the streams that the function may look at, (1, W)

    def note(name: str) -> Callable[..., None]:
        return lambda _, args: seen.update({name: args[0][0]})

    def said(index: int, **projections: Any) -> Any:
        layer = torch.tensor([exit_layer])
        kept = {name: seen[name] for name in mode.needs}
        return mode.function(ExitContext(layer, seen["hidden"], kept), SkippedLayer(index, **projections))

    def enter(index: int) -> Callable[..., Any]:
        if maps:
            [change] = maps.of_layers[exit_layer, index]
            return lambda _, args: ((seen["hidden"] + mapped(change, seen["hidden"]))[None], *args[1:])
        return lambda _, args: (said(index)[None], *args[1:])

    def make(index: int, part: int) -> Callable[..., Any]:
        if maps:
            change = maps.of_layers[exit_layer, index][part]
            return lambda _, args, __: mapped(change, args[0])
        key, value = decoder.for_keys[index].own_projections
        return lambda _, args, __: said(index, key=key.forward, value=value.forward, kv_input=args[0][0])[part][None]

    handles = list[Any]()
    for name, index in {"embedding": 0, "hidden_in": exit_layer, "hidden": exit_layer + 1}.items():
        handles += [each.register_forward_pre_hook(note(name)) for each in decoder.layers[index:][:1]]
    streams_enter = maps.form == STREAMS if maps else mode.fill == "hidden"
    for index in range(exit_layer + (2 if maps else 1), decoder.n_layers):
        if streams_enter:
            handles.append(decoder.layers[index].register_forward_pre_hook(enter(index)))
            continue
        for part, module in enumerate(decoder.for_keys[index].own_projections):
            handles.append(module.register_forward_hook(make(index, part)))
    return handles


def mapped(by: LinearMap, vectors: Tensor) -> Tensor:
    """What a map makes of vectors, by its matrix."""
    return (vectors.float() @ by.weight + by.bias).to(vectors.dtype)


def hiding(layers: list[nn.Module], student: ExitKVCache) -> AbstractContextManager[None]:
    """A context in which layers, given one token, do not attend to the student's hidden positions.

    The mask that a layer is given, if any, keeps its window; in addition, scores of hidden positions become -inf.
    """

    def hide(index: int) -> Callable[..., Any]:
        def give_mask(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = inspect.signature(layer.forward).bind(*args, **kwargs)
            given_mask, held = call.arguments.get("attention_mask"), student.cache.layers[index]
            n_keys, position = held.keys.shape[-2] + 1, held.get_seq_length()  # of the token
            mask = torch.zeros(1, 1, 1, n_keys, dtype=args[0].dtype, device=args[0].device)
            if given_mask is not None:
                mask = mask.masked_fill(~given_mask, -math.inf) if given_mask.dtype == torch.bool else mask + given_mask
            for hidden in student.hidden[index]:
                if hidden > position - n_keys:  # a window's keys are those of its positions alone
                    mask[..., hidden - position - 1] = -math.inf
            call.arguments["attention_mask"] = mask
            return call.args, call.kwargs

        return give_mask

    return removing([layers[i].register_forward_pre_hook(hide(i), with_kwargs=True) for i in student.hidden])
