"""When a model is loaded, deliberately broken attention must be refused in any dtype, and sound models accepted."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from eexit.model.decoder import PROBE_TOKENS, Decoder
from eexit.model.layer_calls import RowAxis
from eexit.model.layerwise import LayerPass
from eexit.model.views import CacheView, TokensView
from tiny_models import ARCHITECTURES, shallow_model
from torch import Tensor
from transformers import PreTrainedModel

from eexit import load_default_model_and_tokenizer
from eexit.cpu.kernels import AttentionOptions
from eexit.errors import UsageError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def plainly(view: CacheView, query: Tensor, key: Tensor, value: Tensor, scaling: float, allowed: Tensor) -> Tensor:
    """Attention of the view's rows to the positions (B, 1, T, S) they are allowed."""
    key, value = key[view.slots], value[view.slots]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scaling, enable_gqa=True)
    return attended.transpose(1, 2)


def allowed(view: CacheView, key: Tensor, reach: int = 0, window: int | None = None) -> Tensor:
    """Positions up to `reach` beyond a token's own, within a window."""
    position_S, own_BT1 = torch.arange(key.shape[2]), view.own_position_BT[..., None]
    within = position_S > own_BT1 - window if window else position_S >= 0
    return ((position_S <= own_BT1 + reach) & within)[:, None]


def other_rows(view: CacheView, part: Tensor) -> Tensor:
    return part if len(view.slots) == 1 else part.roll(1, 0)


BROKEN: dict[str, Callable[..., Tensor]] = {
    "nothing comes out": lambda view, q, k, v, s, w: plainly(view, q, k, v, s, allowed(view, k)) * 0,
    "scores are scaled otherwise": lambda view, q, k, v, s, w: plainly(view, q, k, v, s * 1.5, allowed(view, k)),
    "the future is seen": lambda view, q, k, v, s, w: plainly(view, q, k, v, s, allowed(view, k, len(k[0, 0]))),
    "one position too many is seen": lambda view, q, k, v, s, w: plainly(view, q, k, v, s, allowed(view, k, 1)),
    "the token's own position is not seen": lambda view, q, k, v, s, w: plainly(
        view, q, k, v, s, allowed(view, k, -1) | (torch.arange(k.shape[2]) == 0)
    ),
    "an unasked window": lambda view, q, k, v, s, w: plainly(view, q, k, v, s, allowed(view, k, window=(w or 5) - 1)),
    "the window is ignored": lambda view, q, k, v, s, w: plainly(view, q, k, v, s, allowed(view, k)),
    "keys of other positions": lambda view, q, k, v, s, w: plainly(view, q, k.roll(1, 2), v, s, allowed(view, k)),
    "values of other heads": lambda view, q, k, v, s, w: plainly(view, q, k, v.roll(1, 1), s, allowed(view, k)),
    "heads are swapped": lambda view, q, k, v, s, w: plainly(view, q.roll(1, 1), k, v, s, allowed(view, k)),
    "other rows' keys": lambda view, q, k, v, s, w: plainly(view, q, other_rows(view, k), v, s, allowed(view, k)),
}  # fmt: skip

WITHOUT_WINDOW = [how for how in BROKEN if how != "the window is ignored"]
Break = Callable[[str, int, torch.dtype], None]


@pytest.fixture
def break_attention(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Have our attention go wrong from a layer on, for one dtype's numbers alone."""
    sound = CacheView.attend

    def install(how: str, first_layer: int, dtype: torch.dtype) -> None:
        def attend(view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
            if view.layer < first_layer or query.dtype != dtype:
                return sound(view, query, key, value, options)
            return BROKEN[how](view, query, key, value, options.scaling, options.window)

        monkeypatch.setattr(CacheView, "attend", attend)

    return install


@pytest.fixture(scope="module", params=DTYPES[1:], ids=str)
def default_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return load_default_model_and_tokenizer(dtype=str(request.param).removeprefix("torch."))[0]


@pytest.fixture(scope="module")
def first_layers(default_model: PreTrainedModel) -> PreTrainedModel:
    """The default model's first three layers, with its embeddings and its head."""
    model: Any = copy.deepcopy(default_model)
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    return cast(PreTrainedModel, model)


def in_turn(architecture: str, shift: int) -> list[tuple[str, str, torch.dtype]]:
    """Each way to break attention, in one dtype after the other."""
    return [(architecture, how, DTYPES[(shift + at) % len(DTYPES)]) for at, how in enumerate(WITHOUT_WINDOW)]


@pytest.mark.parametrize(
    ("architecture", "how", "dtype"),
    [
        *(("mistral", "the window is ignored", dtype) for dtype in DTYPES),
        *in_turn("llama", 0),
        *in_turn("gpt2", 1),
        *in_turn("mistral", 2),
    ],
)
def test_broken_attention_is_refused(break_attention: Break, architecture: str, how: str, dtype: torch.dtype) -> None:
    break_attention(how, 1, dtype)
    with pytest.raises(UsageError, match=r"our attention in layer 1 is .*% off"):
        Decoder(shallow_model(architecture, dtype))


def test_the_default_models_layers_are_refused_with_broken_attention(
    break_attention: Break, first_layers: PreTrainedModel
) -> None:
    """By what changes least, one way in each dtype."""
    how = {torch.bfloat16: "one position too many is seen", torch.float16: "an unasked window"}[first_layers.dtype]
    break_attention(how, 1, first_layers.dtype)
    with pytest.raises(UsageError, match=r"our attention in layer 1 is .*% off"):
        Decoder(first_layers)


def test_the_default_model_is_sound_in_half_precision(
    default_model: PreTrainedModel, first_layers: PreTrainedModel
) -> None:
    """All of its layers in the dtype of its checkpoint, and the first ones in the other."""
    if default_model.dtype == torch.bfloat16:
        assert Decoder(default_model).n_layers == 30
    else:
        assert Decoder(first_layers).n_layers == 3


@pytest.mark.parametrize("compiler", ["cc", "no-such-compiler"])
@pytest.mark.parametrize("broken", ["attend", "_attend"])
def test_tokens_by_themselves_that_get_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, use_compiler: Callable[[str], None], broken: str, compiler: str
) -> None:
    """In the view of online, drafting and scoring passes alone; also where its operators take the kernel's place."""
    use_compiler(compiler)
    sound: Callable[..., Tensor] = getattr(TokensView, broken)
    monkeypatch.setattr(TokensView, broken, lambda view, *call: sound(view, *call) * 0)
    with pytest.raises(UsageError, match=r"our attention in layer 0 is .*% off"):
        Decoder(shallow_model("llama"))


def test_tokens_of_a_row_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = TokensView._attend

    def one_by_one(view: TokensView, query: Tensor, *others: Any) -> Tensor:
        for slot, position in zip(view.slots, view.position_BT[:, 0], strict=True):
            view.cache.held(view.layer)[1][slot, :, position] = 0
        return sound(view, query, *others)

    monkeypatch.setattr(TokensView, "_attend", one_by_one)
    with pytest.raises(UsageError, match=r"our attention in layer 0 is .*% off"):
        Decoder(shallow_model("llama"))


@pytest.mark.parametrize("architecture", ["llama", "falcon"])
def test_arguments_of_rows_in_reverse_are_refused(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    sound = RowAxis.select
    monkeypatch.setattr(RowAxis, "select", lambda axis, argument, rows: sound(axis, argument, rows.flip(0)))
    with pytest.raises(UsageError, match=r"(the query in|what) layer 0 .*for (single tokens|a token of some rows) is"):
        Decoder(shallow_model(architecture))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_soft_cap_that_is_left_out_is_refused(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    model = shallow_model("gemma2", dtype)
    assert model.config.attn_logit_softcapping == 50
    sound = CacheView.attend

    def attend(view: CacheView, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        capless = replace(options, softcap=None)
        return sound(view, query, key, value, capless if query.dtype == dtype else options)

    monkeypatch.setattr(CacheView, "attend", attend)
    with pytest.raises(UsageError, match=r"our attention in layer 0 is .*% off"):
        Decoder(model)


def test_arguments_of_attention_that_are_not_known_are_refused_by_name() -> None:
    model = shallow_model("llama")
    attention = model.model.layers[1].self_attn
    attention.forward = partial(attention.forward, temperature=2.0, indices=[0], bias=None)
    with pytest.raises(UsageError, match="layer 1 gives its attention indices, temperature, which ours does not take"):
        Decoder(model)


@pytest.mark.parametrize(("at", "architecture"), [*enumerate(ARCHITECTURES)])
def test_a_model_is_sound_in_half_precision(at: int, architecture: str) -> None:
    """In one of both; in float32, every test that generates with all architectures loads them."""
    dtype = DTYPES[1 + at % 2]
    assert Decoder(shallow_model(architecture, dtype)).n_layers >= 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_positions_that_are_off_by_one_are_refused(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    sound = Decoder.embed

    def embed(decoder: Decoder, **inputs: Any) -> Any:
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + 1
        return sound(decoder, **inputs)

    monkeypatch.setattr(Decoder, "embed", embed)
    with pytest.raises(UsageError, match=r"the query in layer 0 for a prompt is .*% off"):
        Decoder(shallow_model("llama", dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_that_does_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    sound = LayerPass.block

    def block(layer_pass: LayerPass, layer: int, hidden_BTW: Tensor) -> Tensor:
        after_BTW = sound(layer_pass, layer, hidden_BTW)
        return after_BTW if layer != 1 else hidden_BTW + (after_BTW - hidden_BTW) * 1.1

    monkeypatch.setattr(LayerPass, "block", block)
    with pytest.raises(UsageError, match=r"what layer 1 adds for a prompt is .*% off"):
        Decoder(shallow_model("llama", dtype))


def test_rows_that_share_the_longest_ones_rotary_angles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eexit.model.decoder.switch_length", lambda config: None)
    with pytest.raises(UsageError, match=r"the query in layer 0 for positions .*40.* is .*% off"):
        Decoder(shallow_model("phi3_longrope"))


@pytest.mark.parametrize("architecture", ["qwen2_moe", "phimoe"])
def test_a_window_that_only_the_models_mask_knows_is_read_from_it(architecture: str) -> None:
    assert 8 in Decoder(shallow_model(architecture)).windows


@pytest.mark.parametrize("wrong", [None, 7, 9])
def test_a_window_that_the_models_mask_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: int | None
) -> None:
    monkeypatch.setattr("eexit.model.decoder.windows_of", lambda far: [wrong] * 3)
    with pytest.raises(UsageError, match="layer 0 masks other positions"):
        Decoder(shallow_model("mistral"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_experts_that_rounding_chooses_otherwise_beside_other_rows_are_no_reason(dtype: torch.dtype) -> None:
    """Two experts are about equally likely for some rows, and what a router is given in a batch is off by rounding."""
    model = shallow_model("mixtral", dtype)
    router, eps = model.model.layers[1].mlp.gate, torch.finfo(dtype).eps
    seen, n_chosen_otherwise, generator = [], [], torch.Generator().manual_seed(0)

    def see(_: Any, args: tuple[Tensor], __: Any) -> None:
        seen.append(args[0].reshape(-1, 32).double())

    handle = router.register_forward_hook(see)
    Decoder(model)
    handle.remove()
    tied_16W = max(seen, key=len)[:16]
    other_W = torch.randn(32, generator=generator, dtype=torch.double)
    with torch.no_grad():
        router.weight[1] = router.weight[0] + (other_W - torch.linalg.pinv(tied_16W) @ tied_16W @ other_W).to(dtype)

    def choose_otherwise(module: Any, args: tuple[Tensor], output: Any) -> Any:
        hidden_BW = args[0].reshape(-1, 32)
        if len(hidden_BW) in (1, *PROBE_TOKENS):
            return output
        noise_BW = eps * torch.randn(hidden_BW.shape, generator=generator)
        other = module.forward((hidden_BW * (1 + noise_BW)).to(dtype))
        n_chosen_otherwise.append(int((other[2].sort(-1)[0] != output[2].sort(-1)[0]).any(-1).sum()))
        return other

    router.register_forward_hook(choose_otherwise)
    assert Decoder(model).n_layers == 3
    assert max(n_chosen_otherwise) > 1
