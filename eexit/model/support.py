"""Refusals of models that can't be run with exits, by configuration, modules and logits; each raises `UsageError`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from eexit.errors import UsageError, first_line
from eexit.model.structure import find_stack

CHECKED_TOKENS: Final = (29, 6)  # lengths of the prompts that a model is observed with
# Distance of a sequence's logits from those that it has alone, relative to their size.
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
BEYOND_ROUNDING: Final = 4.0  # allowed distance, in multiples of the distance that rounding makes
N_NUDGED: Final = 8  # sequences, by which the latter is found

Texts = Sequence[Sequence[int]]


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Turn refusals, and whatever a model's own code raises, into a `UsageError` that names the model."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's code that is not made to be run this way may raise anything
        reason = f"its own code raises {type(error).__name__}: {first_line(error)}"
        reason = str(error) if isinstance(error, UsageError) else reason
        raise UsageError(f"{model} is not supported: {reason}") from error


def refuse_unsupported(config: Any) -> None:
    """Refuse a configuration without a stack of decoder layers that keep keys and values per position."""
    if config.is_encoder_decoder:
        raise UsageError("it is an encoder-decoder; early exit needs a decoder-only language model")
    decoder = config.get_text_config(decoder=True)
    if not getattr(decoder, "num_hidden_layers", None):
        raise UsageError("its configuration has no num_hidden_layers; early exit needs a stack of decoder layers")
    try:
        layers, kinds = decoder.per_layer_config, set(get_layer_types_and_kwargs(decoder)[0])
    except ValueError as error:
        raise UsageError(f"its configuration contradicts itself: {first_line(error)}") from error
    if not all(getattr(layer, "num_attention_heads", None) for layer in layers):
        raise UsageError("it has no attention heads (a state-space model?); keys and values are needed")
    kinds -= {"full_attention", "sliding_attention"}
    if kinds == {"dummy"}:
        raise UsageError("it has layers that keep no keys and values of their own, since they share other layers'")
    if kinds:
        raise UsageError(
            f"it has layers of kind {', '.join(sorted(kinds))}; only full and sliding-window attention keep the keys "
            "and values per position that early exit needs"
        )


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model with a module, or a module's forward, that torch.compile has compiled."""
    for module in model.modules():
        by_forward = hasattr(module.forward, "_torchdynamo_orig_callable")
        if by_forward or module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
            raise UsageError(
                "the model is compiled, and its layers can't be visited then: load it without torch.compile"
            )


def refuse_unmerged(model: nn.Module) -> None:
    """Refuse a model with an adapter of peft that is not merged."""
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise UsageError(
            "it has an adapter of peft that is not merged: give what merge_and_unload() of the PeftModel returns or, "
            "to a sweep, the model without it and the adapter's folder as adapter=…"
        )


def refuse_training(model: nn.Module) -> None:
    """Refuse a model in training mode, in which it may drop activations, or its cache for gradients."""
    if model.training:
        raise UsageError("the model is in training mode: call model.eval() before")


def refuse_hooked(model: PreTrainedModel) -> None:
    """Refuse a model with forward hooks outside its layers, or with a patched module that holds others.

    Hooks in layers are allowed: a layer that runs is called as in a plain forward. Modules outside run at other times
    than in plain `generate`: norm and head wherever a layer is read. Of a patched module, parts may run without it.
    """
    path, layers = find_stack(model, model.config.get_text_config(decoder=True).num_hidden_layers)
    in_layers = f"{path}.{layers}." if path else f"{layers}."
    for name, module in model.named_modules():
        what = f"the model's {name}" if name else "the model"
        # Hooks of transformers' own record hidden states where they are wanted.
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if not name.startswith(in_layers) and not all(_is_of(hook, "transformers") for hook in hooks):
            raise UsageError(
                f"{what} has a forward hook, which would get other calls here than in plain generate: remove it (its "
                "handle has remove()), put it on a layer, or use plain generate"
            )
        is_patched = "forward" in vars(module) and not _is_of(getattr(module, "_hf_hook", None), "accelerate")
        if is_patched and any(module.children()):
            raise UsageError(
                f"{what} has a forward of its own in place of that of its class, and a part of it may run alone here: "
                "load the model again, or use plain generate"
            )


def _is_of(hook: object, library: str) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(f"{library}.")


def refuse_autocast(device: torch.device) -> None:
    """Refuse to run under torch.autocast, which has operators compute in another dtype than the weights'."""
    if torch.is_autocast_enabled(device.type):
        raise UsageError(
            "torch.autocast is on, so that products are computed in another dtype than the weights': run it outside of "
            f"torch.autocast, and load the model with dtype={torch.get_autocast_dtype(device.type)} if that is wanted"
        )


def refuse_offloaded(model: PreTrainedModel) -> None:
    """Refuse a model with some weights in the CPU's memory or on disk, and others on devices."""
    at = {name: parameter.device for name, parameter in model.named_parameters()}
    if len({device.type for device in at.values()}) <= 1:
        return
    left_out = next(name for kind in ("meta", "cpu") for name, device in at.items() if device.type == kind)
    where = "offloaded to the CPU's memory or to disk" if at[left_out].type == "meta" else "in the CPU's memory"
    others = sorted({str(device) for device in at.values() if device.type not in ("meta", "cpu")}) or ["the CPU"]
    raise UsageError(
        f"{left_out} is {where}, and other weights are on {', '.join(others)}: load it onto as many devices as hold "
        "all of it, with a device_map (of a sweep's actors, --gpus-per-actor), or give --quantize"
    )


def checked_texts(vocabulary: int, context: int | None) -> Texts:
    """Return texts of CHECKED_TOKENS, from the middle of the vocabulary: tokens with a function are at its ends."""
    lengths = [min(length, (context or length + 1) - 1) for length in CHECKED_TOKENS]
    return [[vocabulary // 4 + 7919 * (at + length) % (vocabulary // 2) for at in range(length)] for length in lengths]


def refuse_mixed(
    logits_of: Callable[[Texts, float], Tensor], texts: Texts, own_4V: Tensor, dtype: torch.dtype, why: str
) -> None:
    """Refuse a model whose logits depend on other sequences of the batch, or on when deferred tokens run.

    Padded beside others, a sequence's logits come from products of other sizes. Where rounding alone moves logits far,
    as in a mixture of experts that may choose other ones, so may this.

    `logits_of` returns the logits behind the last four tokens of texts, (B, 4, V), the last two of them deferred, if
    the hidden state is nudged before every layer by up to so much of its size. `own_4V` are the model's own behind the
    same tokens of the last text, run alone. `why` ends the first refusal.
    """
    cases = (
        (slice(0, 2), f"left padding beside a longer sequence changes its logits by {{:.1%}}{why}"),
        (slice(2, 4), "running the skipped layers of deferred tokens later changes its logits by {:.1%}"),
    )
    batch_4V, nudged_B4V = logits_of(texts, 0.0)[-1], None
    for at, message in cases:
        distance = _distance(batch_4V[at], own_4V[at])
        if distance <= TOLERANCE[dtype]:
            continue
        if nudged_B4V is None:
            nudged_B4V = logits_of([texts[-1]] * N_NUDGED, torch.finfo(dtype).eps)
        first_2V, *others = nudged_B4V[:, at]
        if not distance <= BEYOND_ROUNDING * max(_distance(other_2V, first_2V) for other_2V in others):
            raise UsageError(message.format(distance))


def _distance(logits: Tensor, other: Tensor) -> float:
    """Return the largest distance of logits from others, (…, V), relative to their size."""
    return float(((logits - other).norm(dim=-1) / other.norm(dim=-1)).max())
