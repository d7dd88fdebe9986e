"""Models whose code, or ours, does otherwise in some name, in larger batches or at greater lengths are refused."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from eexit.model.layer_calls import ATTENTION
from eexit.model.views import CacheView
from tiny_models import shallow_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from eexit.cpu.kernels import AttentionOptions
from eexit.errors import UsageError
from eexit.model.layers import Decoder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYER = 1
Attack = Callable[[PreTrainedModel], None]


def in_turn(attacks: Iterable[Any], shift: int = 0) -> list[tuple[Any, torch.dtype]]:
    """Each attack with one dtype, which another `shift` pairs in another way."""
    return [(attack, DTYPES[(shift + at) % len(DTYPES)]) for at, attack in enumerate(attacks)]


def module_of(model: PreTrainedModel, name: str) -> Any:
    """The module of one of the layers whose path ends in this name."""
    return next(module for path, module in model.named_modules() if f".{LAYER}." in path and path.endswith(f".{name}"))


def hand_over(model: PreTrainedModel, is_wrong: Callable[[str], bool], **wrong: Any) -> None:
    """Give a layer's attention other options where it runs in some implementations' names."""
    attention = module_of(model, "self_attn")
    sound = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        before = {name: getattr(attention, name) for name in wrong}
        for name, change in wrong.items() if is_wrong(attention.config._attn_implementation) else ():
            object.__setattr__(attention, name, change(before[name]))
        try:
            return sound(*args, **kwargs)
        finally:
            for name, value in before.items():
                object.__setattr__(attention, name, value)

    attention.forward = forward


def ours(name: str) -> bool:
    return name == ATTENTION


def not_its_own(name: str) -> bool:
    return name not in ("eager", "sdpa")


OPTIONS: dict[str, tuple[str, Attack]] = {
    "a soft-cap is left out for ours": (
        "gemma2", partial(hand_over, is_wrong=ours, attn_logit_softcapping=lambda cap: None)
    ),
    "a soft-cap is left out for all but the model's own": (
        "gemma2", partial(hand_over, is_wrong=not_its_own, attn_logit_softcapping=lambda cap: None)
    ),
    "a scaling is tripled for ours": ("gemma2", partial(hand_over, is_wrong=ours, scaling=lambda scaling: scaling * 3)),
    "a scaling is tripled for all but the model's own": (
        "llama", partial(hand_over, is_wrong=not_its_own, scaling=lambda scaling: scaling * 3)
    ),
    "a scaling is left out for ours": (
        "granite", partial(hand_over, is_wrong=ours, scaling=lambda scaling: None)
    ),
    "attention sinks are others for ours": (
        "gpt_oss", partial(hand_over, is_wrong=ours, sinks=lambda sinks: sinks + 1)
    ),
    "attention sinks are left out for all but the model's own": (
        "gpt_oss", partial(hand_over, is_wrong=not_its_own, sinks=lambda sinks: None)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "dtype"), in_turn(OPTIONS))
def test_options_that_only_our_attention_is_handed_are_refused(attack: str, dtype: torch.dtype) -> None:
    family, make_wrong = OPTIONS[attack]
    model = shallow_model(family, dtype)
    make_wrong(model)
    with pytest.raises(UsageError, match=f"layer {LAYER} hands our attention another .* than the model's own"):
        Decoder(model)


def reversed_rows(part: Tensor) -> Tensor:
    return part.flip(0)


def rolled_rows(part: Tensor) -> Tensor:
    return part.roll(1, 0)


def two_swapped_rows(part: Tensor) -> Tensor:
    return torch.cat([part[1:2], part[:1], part[2:]])


def swapped_halves(part: Tensor) -> Tensor:
    return part.roll(len(part) // 2, 0)


def means_with_a_neighbour(part: Tensor) -> Tensor:
    return (part + part.roll(1, 0)) / 2


def only_the_first_row(part: Tensor) -> Tensor:
    return part[:1].expand_as(part)


def half_as_much_more(part: Tensor) -> Tensor:
    return part * 1.5


MIX_UPS = [
    reversed_rows, rolled_rows, two_swapped_rows, swapped_halves, means_with_a_neighbour, only_the_first_row,
    half_as_much_more,
]  # fmt: skip


def mix_up(model: PreTrainedModel, name: str, mixed: Callable[[Tensor], Tensor], more_than: int) -> None:
    """Mix up what comes out of a layer's module, if there are more rows than this."""

    def leave(_: nn.Module, __: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (leave(_, __, output[0]), *output[1:])
        return mixed(output) if len(output) > more_than else output

    module_of(model, name).register_forward_hook(leave)


ROWS: list[tuple[str, str, Callable[[Tensor], Tensor], int]] = [
    *(("llama", "mlp", mixed, more_than) for more_than in (1, 4, 32) for mixed in MIX_UPS),
    *(("llama", name, reversed_rows, 8) for name in ("self_attn", "q_proj", "v_proj", "input_layernorm")),
    *(("mixtral", "mlp", mixed, 4) for mixed in MIX_UPS),
    *(("bloom", "mlp", mixed, 4) for mixed in MIX_UPS),
    ("gpt2", "mlp", reversed_rows, 16),
    ("gemma2", "mlp", reversed_rows, 4),
    ("falcon", "mlp", reversed_rows, 16),
    ("mpt", "out_proj", rolled_rows, 8),
]


@pytest.mark.parametrize(("attack", "dtype"), in_turn(ROWS))
def test_rows_that_a_layer_mixes_up_are_refused(
    attack: tuple[str, str, Callable[[Tensor], Tensor], int], dtype: torch.dtype
) -> None:
    family, name, mixed, more_than = attack
    model = shallow_model(family, dtype)
    mix_up(model, name, mixed, more_than)
    with pytest.raises(UsageError, match=rf"(what|the \w+ in|) ?layer {LAYER} .*(% off|another row's)"):
        Decoder(model)


def scaled_by_keys(where: str) -> Callable[..., Any]:
    """The forward of Llama's attention, with scores that grow with the number of keys beyond 64."""

    def forward(
        attention: Any, hidden_states: Tensor, position_embeddings: Any, attention_mask: Tensor | None = None,
        cache: Any = None, **kwargs: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = modeling_llama.apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, attention.layer_idx)
        more = max(1.0, math.log(key.shape[2]) / math.log(64))
        scaling = attention.scaling * (more if where == "its scaling" else 1)
        query = query * (more if where == "its queries" else 1)
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, modeling_llama.eager_attention_forward
        )
        attended, weights = interface(attention, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return attention.o_proj(attended.reshape(*hidden_states.shape[:-1], -1).contiguous()), weights

    return forward


@pytest.mark.parametrize(("where", "dtype"), in_turn(["its scaling", "its queries"]))
def test_scores_that_grow_with_the_room_for_keys_are_refused(where: str, dtype: torch.dtype) -> None:
    """In a batch there is room for more keys than a row has."""
    model = shallow_model("llama", dtype, max_position_embeddings=4096)
    attention = module_of(model, "self_attn")
    attention.forward = MethodType(scaled_by_keys(where), attention)
    with pytest.raises(UsageError, match=rf"layer {LAYER} (hands our attention another scaling|for a prompt is)"):
        Decoder(model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_of_a_layers_own_that_depends_on_the_longest_row_is_refused(dtype: torch.dtype) -> None:
    """A short row's keys are padded to the longest row's, and its result must be as without padding."""
    model = shallow_model("bloom", dtype, max_position_embeddings=1024)
    attention = module_of(model, "self_attention")
    sound = attention.forward

    def forward(*args: Any, alibi: Tensor, **kwargs: Any) -> Any:
        own = attention.inv_norm_factor
        attention.inv_norm_factor = own * (2 if alibi.shape[-1] > 64 else 1)
        try:
            return sound(*args, alibi=alibi, **kwargs)
        finally:
            attention.inv_norm_factor = own

    attention.forward = forward
    with pytest.raises(UsageError, match=rf"what layer {LAYER} adds at position"):
        Decoder(model)


Attend = Callable[[CacheView, Tensor, Tensor, Tensor, AttentionOptions], Tensor]
SOUND: Attend = CacheView.attend


def with_rows_mixed(mixed: Callable[[Tensor], Tensor], more_than: int) -> Attend:
    def attend(view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        attended = SOUND(view, query, key, value, options)
        return mixed(attended) if len(attended) > more_than else attended

    return attend


def scaled_by_room(view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
    return SOUND(view, query, key, value, replace(options, scaling=options.scaling * max(1, key.shape[2] / 64)))


def blind_beyond_64(view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
    """Tokens beyond position 64 attend to the last 64 positions alone."""
    far_B = view.own_position_BT[:, -1] > 64
    whole = SOUND(view, query, key, value, options)
    part = SOUND(view, query, key, value, replace(options, window=min(options.window or 64, 64)))
    return torch.where(far_B[:, None, None, None], part, whole)


OUR_ATTENTION: dict[str, Attend] = {
    **{f"{mixed.__name__} of more than {more_than}": with_rows_mixed(mixed, more_than)
       for mixed in (reversed_rows, two_swapped_rows) for more_than in (4, 16, 32)},
    "scaled by the room for keys": scaled_by_room,
    "blind beyond 64 positions": blind_beyond_64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "attack", "dtype"),
    [
        (family, *pair)
        for shift, family in enumerate(("llama", "gpt2", "gemma2"))
        for pair in in_turn(OUR_ATTENTION, shift)
    ],
)
def test_our_attention_to_many_rows_and_positions_is_compared(
    monkeypatch: pytest.MonkeyPatch, family: str, attack: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(CacheView, "attend", OUR_ATTENTION[attack])
    with pytest.raises(UsageError, match=r"our attention in layer \d is .*% off"):
        Decoder(shallow_model(family, dtype))
