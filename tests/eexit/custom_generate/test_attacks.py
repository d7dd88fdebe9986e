"""What is done to a model, or asked of a setting, is followed as plain `generate` follows it, or refused in a line."""

import copy
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from taken_settings import DRAFT, N_TOKENS, Folders, loaded, make, run, texts_of
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

import eexit
from eexit.custom_generate.checked_models import SeenModel
from eexit.custom_generate.setting import Setting
from eexit.decode.costs.counting import Prices
from eexit.decode.prices import find_prices
from eexit.errors import UsageError

CONTEXT = 256  # of these models, in tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports


@pytest.fixture(scope="module", autouse=True)
def prices_are_found_once() -> Iterator[None]:
    """All of these models cost the same, and what rows cost is not looked at here."""
    found: list[Prices] = []

    def once(*given: Any) -> Prices:
        found[:] = found or [find_prices(*given)]
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eexit.custom_generate.setting.find_prices", once)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make(tmp_path_factory.mktemp("attacked"), "llama")


@pytest.fixture(scope="module")
def prompt(folders: Folders) -> list[int]:
    return max((prompt for prompt, _, _ in texts_of(folders["sweep"], DRAFT)), key=len)


def plain(model: PreTrainedModel, prompt: list[int], **asked: Any) -> list[int]:
    """What `generate` itself generates."""
    given = {"max_new_tokens": N_TOKENS, "do_sample": False, **asked}
    output = model.generate(torch.tensor([prompt]), **given)  # type: ignore[operator]  # of a mixin
    generated: list[int] = output[0, len(prompt) :].tolist()
    return generated


@pytest.fixture(scope="module")
def before(folders: Folders, prompt: list[int]) -> list[int]:
    """What `generate` generates for the prompt with a model that nothing was done to."""
    return plain(loaded(folders["model"]), prompt)


def drafted(model: PreTrainedModel, setting: Setting, prompt: list[int], **asked: Any) -> list[int]:
    """The same by a setting that drafts."""
    return plain(model, prompt, custom_generate=setting, **asked)


def layer(model: PreTrainedModel, index: int = 4) -> Any:
    return model.model.layers[index]


def twice(*given: Any) -> Tensor:
    """As a forward hook: the output, doubled."""
    output: Tensor = given[-1]
    return output * 2


class Doubled(nn.Module):
    """A module around another one."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, hidden: Tensor) -> Tensor:
        return twice(self.module(hidden))


class Counting:
    """Counts what passes by."""

    seen = 0

    def hook(self, *given: Any) -> None:
        self.seen += 1


def write_by_numpy(tensor: Tensor) -> None:
    tensor.detach().numpy()[...] *= 2


def replace_parameter(model: PreTrainedModel) -> None:
    layer(model).mlp.up_proj.weight = nn.Parameter(layer(model).mlp.up_proj.weight.detach() * 2)


def swap_layers(model: PreTrainedModel) -> None:
    layers: Any = model.model.layers
    layers[3], layers[4] = layers[4], layers[3]


def patch_forward(module: nn.Module, wrap: Callable[[Any], Any]) -> None:
    vars(module)["forward"] = wrap(module.forward)


@contextmanager
def class_patched() -> Iterator[None]:
    own: Any = LlamaMLP.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaMLP, "forward", lambda self, hidden: own(self, hidden) * 2)
        yield


@contextmanager
def hook_of_all_modules() -> Iterator[None]:
    def double(module: nn.Module, _: Any, output: Tensor) -> Any:
        return output * 2 if type(module) is LlamaMLP else None

    handle = register_module_forward_hook(double)
    try:
        yield
    finally:
        handle.remove()


compiled = partial(torch.compile, backend="eager")
WEIGHTS, HOOK = "has other weights", "has a forward hook"
ON_WEIGHTS: dict[str, Callable[[PreTrainedModel], Any]] = {
    "in place": lambda model: layer(model).mlp.up_proj.weight.requires_grad_(False).mul_(2),
    "one number in place": lambda model: layer(model).mlp.up_proj.weight.requires_grad_(False)[3, 4].fill_(9.0),
    "through data": lambda model: layer(model).mlp.up_proj.weight.data.mul_(2),
    "through numpy": lambda model: write_by_numpy(layer(model).mlp.up_proj.weight),
    "one number of a norm, through data": lambda model: layer(model).input_layernorm.weight.data[5].fill_(9.0),
    "other data": lambda model: setattr(layer(model).mlp.up_proj.weight, "data", torch.ones(64, 32)),
    "another parameter": replace_parameter,
    "another module with other weights": lambda model: setattr(layer(model), "mlp", LlamaMLP(model.config)),
    "a module around a module": lambda model: setattr(layer(model), "mlp", Doubled(layer(model).mlp)),
    "layers in another order": swap_layers,
}
ON_HOOKS: dict[str, Callable[[PreTrainedModel], Any]] = {
    "of a layer": lambda model: layer(model).mlp.register_forward_hook(twice),
    "before a layer": lambda model: layer(model).mlp.register_forward_pre_hook(lambda _, given: (given[0] * 2,)),
    "with keyword arguments": lambda model: layer(model).mlp.register_forward_hook(twice, with_kwargs=True),
    "of the head": lambda model: model.lm_head.register_forward_hook(twice),
    "of the model": lambda model: model.register_forward_hook(lambda *given: None),
    "a method that looks on": lambda model: layer(model).register_forward_hook(Counting().hook),
}
ON_FORWARD: dict[str, Callable[[PreTrainedModel], Any]] = {
    "of a layer's part": lambda model: patch_forward(layer(model).mlp, lambda own: lambda hidden: own(hidden) * 2),
    "of the model": lambda model: patch_forward(model, lambda own: lambda *args, **given: own(*args, **given)),
}
COMPILED: dict[str, Callable[[PreTrainedModel], Any]] = {
    "forward": lambda model: patch_forward(model, compiled),
    "forward of a layer": lambda model: patch_forward(layer(model), compiled),
    "the inner model": lambda model: setattr(model, "model", compiled(model.model)),
    "in place": lambda model: model.compile(backend="eager"),
}
FOLLOWED: dict[str, Callable[[PreTrainedModel], AbstractContextManager[Any] | Any]] = {
    "module without weights replaced": lambda model: setattr(layer(model).mlp, "act_fn", nn.Tanh()),
    "scaling of attention": lambda model: setattr(layer(model).self_attn, "scaling", 3.0),
    "buffer in place": lambda model: model.model.rotary_emb.inv_freq.mul_(2),
    "buffer through data": lambda model: model.model.rotary_emb.inv_freq.data.mul_(2),
    "buffer through numpy": lambda model: write_by_numpy(model.model.rotary_emb.inv_freq),
    "another buffer": lambda model: setattr(model.model.rotary_emb, "inv_freq", torch.ones(4)),
    "forward of a whole class": lambda model: class_patched(),
    "hook of all modules": lambda model: hook_of_all_modules(),
}  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """A change of the model, and what of `generate` is asked for then."""

    change: Callable[[PreTrainedModel], Any] = lambda model: None
    outcome: str | None = None  # why it is refused; SAME or None: the text is that of plain `generate`
    asked: dict[str, Any] = field(default_factory=dict)  # with `prompt`: another prompt


SAME = "the text stays as it was"
ATTACKS = {
    **{f"weights {name}": Attack(change, "has other weights") for name, change in ON_WEIGHTS.items()},
    **{f"hook {name}": Attack(change, HOOK) for name, change in ON_HOOKS.items()},
    **{f"forward {name}": Attack(change, "has a forward of its own") for name, change in ON_FORWARD.items()},
    **{f"compiled {name}": Attack(change, "the model is compiled.*torch.compile") for name, change in COMPILED.items()},
    **{name: Attack(change) for name, change in FOLLOWED.items()},
    "hooks of transformers": Attack(lambda model: model(torch.tensor([[3]]), output_hidden_states=True), SAME),
    "autocast": Attack(lambda model: torch.autocast("cpu", torch.bfloat16), "torch.autocast is on.*run it outside"),
    "configuration": Attack(lambda model: setattr(model.config, "rms_norm_eps", 0.5), "this model has 0.5"),
    "training": Attack(lambda model: model.train(), r"call model.eval\(\)"),
    "top_p of 0": Attack(outcome=SAME, asked={"do_sample": True, "top_p": 0.0, "top_k": 0, "temperature": 9.0}),
    "an id beyond the vocabulary": Attack(
        outcome="row 0 has token 99999, and the model's vocabulary has the ids 0 to 256: use the model's own tokenizer",
        asked={"prompt": [3, 99999, 4]},
    ),
    "a negative id": Attack(outcome="row 0 has token -1, and the model's vocabulary", asked={"prompt": [3, -1]}),
    "a prompt as long as the context": Attack(outcome="leaves no room in the model's", asked={"prompt": [9] * CONTEXT}),
}  # fmt: skip


# Of each kind one, for a model that was not used before: all of it is looked at then, whatever was changed.
AT_FIRST_USE = (
    "weights one number in place", "hook of a layer", "forward of the model", "compiled forward of a layer",
    "another buffer", "hooks of transformers", "autocast", "configuration", "training", "a negative id",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "used_before"), [*((name, True) for name in ATTACKS), *((name, False) for name in AT_FIRST_USE)]
)
def test_what_is_changed_or_asked_is_followed_as_plain_generate_follows_it_or_refused_in_a_line(
    folders: Folders, prompt: list[int], before: list[int], name: str, used_before: bool
) -> None:
    attack = ATTACKS[name]
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    asked = {"prompt": prompt, **attack.asked}
    if used_before:
        assert drafted(model, setting, prompt) == before
    done = attack.change(model)
    with done if isinstance(done, AbstractContextManager) else torch.no_grad():
        if attack.outcome in (None, SAME):
            now = plain(model, **asked)
            assert (now == before) == (attack.outcome == SAME)
            assert drafted(model, setting, **asked) == now
        else:
            with pytest.raises(UsageError, match=str(attack.outcome)) as refused:
                drafted(model, setting, **asked)
            assert "\n" not in str(refused.value)


def test_what_a_user_takes_back_is_followed_again(folders: Folders, prompt: list[int]) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    before = drafted(model, setting, prompt)
    handle = layer(model).register_forward_hook(lambda *given: None)
    with pytest.raises(UsageError, match=HOOK):
        drafted(model, setting, prompt)
    handle.remove()
    layer(model).mlp.up_proj.weight.data.mul_(2)
    with pytest.raises(UsageError, match=WEIGHTS):
        drafted(model, setting, prompt)
    layer(model).mlp.up_proj.weight.data.div_(2)
    assert drafted(model, setting, prompt) == before


def test_a_single_number_of_a_large_weight_is_not_seen_through_data(folders: Folders, prompt: list[int]) -> None:
    model, other, setting = loaded(folders["model"]), loaded(folders["model"]), eexit.load(folders["exits"])
    run(model, setting, [prompt])
    for each in (model, other):
        layer(each).mlp.up_proj.weight.data.view(-1)[1] += 1  # between two numbers that are looked at
    run(model, setting, [prompt])  # jobs/README.md says so
    with pytest.raises(UsageError, match=WEIGHTS):
        run(other, setting, [prompt])  # a model's first use reads all of its weights


@pytest.mark.parametrize("sampled", [True, False])
def test_rows_of_one_prompt_have_the_seeds_that_follow_one_another(
    folders: Folders, prompt: list[int], sampled: bool
) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["exits"])
    asked: dict[str, Any] = {"do_sample": True, "top_k": 0, "temperature": 2.0} if sampled else {"do_sample": False}
    alone = [run(model, setting, [prompt], seed=seed, **asked)[0] for seed in (15, 16, 17)]
    assert len({str(each) for each in alone}) == (3 if sampled else 1)
    together = run(model, setting, [prompt, [9, 8], prompt, prompt], seed=15, **asked)
    assert [together[row] for row in (0, 2, 3)] == alone
    assert together[1] == run(model, setting, [[9, 8]], seed=15, **asked)[0]
    if sampled:
        assert run(model, setting, [prompt], seed=15, num_return_sequences=3, **asked) == alone


def test_a_row_that_reaches_the_context_ends_there_with_a_word(folders: Folders) -> None:
    model, setting, prompt = loaded(folders["model"]), eexit.load(folders["drafts"]), [3, 4, 5] * 84
    whole = plain(model, prompt)
    with pytest.warns(UserWarning, match=r"row 0 ends after 4 new tokens, where the model's context ends.* at most 4"):
        assert drafted(model, setting, prompt) == whole[: CONTEXT - len(prompt)]
    assert drafted(model, setting, prompt, max_new_tokens=4) == whole[:4]  # a warning would be an error


def test_without_eos_tokens_a_row_goes_on(folders: Folders, prompt: list[int]) -> None:
    model, taken = loaded(folders["model"]), eexit.load(folders["drafts"]).taken
    whole = plain(model, prompt)
    own, asked = (whole[: whole.index(token_id) + 1] for token_id in (whole[2], whole[-1]))
    assert len(own) < len(whole)
    setting = Setting(taken.model_copy(update={"eos_token_ids": own[-1:]}), folders["drafts"])
    assert drafted(model, setting, prompt, eos_token_id=asked[-1]) == asked
    assert drafted(model, setting, prompt, eos_token_id=None) == whole
    model.generation_config.eos_token_id = None  # in which the model's own configuration names one
    assert drafted(model, setting, prompt) == whole
    model.config.eos_token_id = None
    assert drafted(model, setting, prompt) == own, "the sweep had its tokenizer's"


def test_a_setting_may_be_wrapped(folders: Folders, prompt: list[int]) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])

    def wrapped(*args: Any, **given: Any) -> Any:
        return setting(*args, **given)

    assert plain(model, prompt, custom_generate=wrapped) == plain(model, prompt)
    assert setting.stats["eexit_rows_total"] == 1


@pytest.mark.parametrize("way", ["arguments", "configuration of the call", "configuration of the model"])
def test_stop_strings_are_followed_wherever_they_are_given(folders: Folders, prompt: list[int], way: str) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    tokenizer, whole = AutoTokenizer.from_pretrained(folders["model"]), plain(model, prompt)
    pieces = [str(tokenizer.decode([token_id])) for token_id in whole]
    stop = next(piece for piece in pieces[1:-1] if piece.isascii())
    given: dict[str, Any] = {"max_new_tokens": N_TOKENS, "do_sample": False}
    if way == "arguments":
        given["stop_strings"] = stop
    elif way == "configuration of the call":
        given = {"generation_config": GenerationConfig(**given, stop_strings=[stop])}
    else:
        model.generation_config.stop_strings = [stop]
    ours = setting.generate(model, torch.tensor([prompt]), tokenizer=tokenizer, **given)
    theirs = model.generate(torch.tensor([prompt]), tokenizer=tokenizer, **given)  # type: ignore[operator]
    assert ours.tolist() == theirs.tolist() == [prompt + whole[: pieces.index(stop) + 1]]
    with pytest.raises(UsageError, match="stop_strings need the model's tokenizer"):
        setting.generate(model, torch.tensor([prompt]), **given)


def test_a_setting_can_be_copied_and_pickled(folders: Folders, prompt: list[int]) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    whole = drafted(model, setting, prompt)
    for copied in (copy.deepcopy(setting), pickle.loads(pickle.dumps(setting))):
        assert copied.stats == setting.stats
        assert drafted(model, copied, prompt) == whole
        assert copied.stats["eexit_rows_total"] == 2
    assert setting.stats["eexit_rows_total"] == 1


@pytest.mark.slow  # a real model
def test_to_look_whether_a_model_changed_takes_far_less_time_than_a_step() -> None:
    model, _ = eexit.load_default_model_and_tokenizer(dtype="float32")
    seen = SeenModel(model)

    def least(act: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(20):
            start = time.process_time()
            act()
            seconds.append(time.process_time() - start)
        return min(seconds)

    with torch.inference_mode():
        cache = model(torch.tensor([[3, 4, 5, 6]]), use_cache=True).cache
        step = least(lambda: model(torch.tensor([[7]]), cache=cache, use_cache=True))
    assert seen.is_still(model)
    assert least(lambda: seen.is_still(model)) < step / 10  # a thirtieth, as jobs/README.md says
