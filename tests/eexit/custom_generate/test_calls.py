"""What is asked of a setting is followed as plain `generate` follows it, or refused in a line; changed models too."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from taken_settings import DRAFT, N_TOKENS, Folders, loaded, make, run, texts_of
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, RepetitionPenaltyLogitsProcessor

import eexit
from eexit.custom_generate.setting import Setting
from eexit.decode.costs import UnitCosts
from eexit.decode.unit_costs import find_prices
from eexit.errors import UsageError

CONTEXT = 256  # of these models, in tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports


@pytest.fixture(scope="module", autouse=True)
def prices_are_found_once() -> Iterator[None]:
    """All of these models cost the same, and what rows cost is not looked at here."""
    found: list[UnitCosts] = []

    def once(*given: Any) -> UnitCosts:
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


def drafted(model: PreTrainedModel, setting: Setting, prompt: list[int], **asked: Any) -> list[int]:
    """The same by a setting that drafts."""
    return plain(model, prompt, custom_generate=setting, **asked)


def layer(model: PreTrainedModel) -> Any:
    return model.model.layers[4]


def patch_forward(module: Any, wrap: Callable[[Any], Any]) -> None:
    vars(module)["forward"] = wrap(module.forward)


# What was done to a model before a setting looks at it.
REFUSED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "weights": (lambda model: layer(model).mlp.up_proj.weight.data.view(-1)[1].add_(1), "has other weights"),
    "hook": (lambda model: model.lm_head.register_forward_hook(lambda *given: None), "lm_head has a forward hook"),
    "forward": (
        lambda model: patch_forward(layer(model), lambda own: lambda *args: own(*args)),
        "a forward of its own",
    ),
    "compiled": (lambda model: model.compile(backend="eager"), "the model is compiled.*torch.compile"),
    "configuration": (lambda model: setattr(model.config, "rms_norm_eps", 0.5), "this model has 0.5"),
    "training": (lambda model: model.train(), r"call model.eval\(\)"),
    "autocast": (lambda model: torch.autocast("cpu", torch.bfloat16), "torch.autocast is on.*run it outside"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_as_it_was_loaded_is_refused_in_a_line(
    folders: Folders, prompt: list[int], name: str
) -> None:
    model, (change, reason) = loaded(folders["model"]), REFUSED[name]
    done, refusal = change(model), pytest.raises(UsageError, match=reason)
    with done if isinstance(done, torch.autocast) else nullcontext(), refusal as refused:
        drafted(model, eexit.load(folders["drafts"]), prompt)
    assert "\n" not in str(refused.value)


def test_hooks_of_transformers_and_a_buffer_of_ones_own_are_followed(folders: Folders, prompt: list[int]) -> None:
    model = loaded(folders["model"])
    model(torch.tensor([[3]]), output_hidden_states=True)
    model.model.rotary_emb.inv_freq.mul_(2)
    assert drafted(model, eexit.load(folders["drafts"]), prompt) == plain(model, prompt)


def test_what_hooks_on_layers_and_patched_norms_change_is_changed_as_in_plain_generate(
    folders: Folders, prompt: list[int]
) -> None:
    model = loaded(folders["model"])
    before = plain(model, prompt)
    layer(model).register_forward_hook(lambda _, __, output: output.roll(3, -1))
    layer(model).self_attn.register_forward_pre_hook(lambda *given: None)
    patch_forward(model.model.layers[2].input_layernorm, lambda own: lambda hidden: 2 * own(hidden))
    changed = plain(model, prompt)
    assert changed != before
    assert drafted(model, eexit.load(folders["drafts"]), prompt) == changed


def test_hooks_run_where_their_layers_do(folders: Folders, prompt: list[int]) -> None:
    model, setting, calls = loaded(folders["model"]), eexit.load(folders["exits"]), Counter[int]()
    run(model, setting, [prompt])  # which looks at the model
    for index, each in enumerate(model.model.layers):
        each.register_forward_hook(lambda _, __, output, index=index: calls.update([index]))
    [(_, exit_layers)] = run(model, setting, [prompt])
    assert len(set(exit_layers)) > 1
    assert calls == {index: sum(exit >= index for exit in exit_layers) for index in range(len(model.model.layers))}


def test_threads_that_share_a_model_get_what_each_gets_alone(folders: Folders, prompt: list[int]) -> None:
    """Settings look at the model when they are first used, here all at once."""
    others = [prompt for prompt, _, _ in texts_of(folders["sweep"], DRAFT)]

    def tasks(model: PreTrainedModel) -> list[Callable[[], Any]]:
        exits, drafts = eexit.load(folders["exits"]), eexit.load(folders["drafts"])
        return [
            lambda: [plain(model, prompt) for _ in range(4)],
            *[lambda setting=setting: run(model, setting, others) for setting in (exits, exits, drafts)],
        ]

    alone = [task() for task in tasks(loaded(folders["model"]))]
    with ThreadPoolExecutor(4) as threads:
        together = [threads.submit(task) for task in tasks(loaded(folders["model"]))]
    assert [each.result() for each in together] == alone


def test_a_changed_model_is_looked_at_when_the_setting_is_loaded_again(folders: Folders, prompt: list[int]) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    drafted(model, setting, prompt)
    with torch.no_grad():
        layer(model).mlp.up_proj.weight.mul_(2)
    drafted(model, setting, prompt)  # jobs/README.md says so
    with pytest.raises(UsageError, match="has other weights: load that model, or take a setting of this one home"):
        drafted(model, eexit.load(folders["drafts"]), prompt)


@pytest.mark.parametrize(
    ("prompt_ids", "reason"),
    [
        ([3, 99999, 4], "row 0 has token 99999, and the model's vocabulary has the ids 0 to 256: use the model's own"),
        ([3, -1], "row 0 has token -1, and the model's vocabulary"),
        ([9] * CONTEXT, "leaves no room in the model's"),
    ],
)
def test_a_prompt_that_can_not_be_is_refused(folders: Folders, prompt_ids: list[int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        drafted(loaded(folders["model"]), eexit.load(folders["drafts"]), prompt_ids)


def test_top_p_of_0_is_greedy(folders: Folders, prompt: list[int]) -> None:
    model, asked = loaded(folders["model"]), {"do_sample": True, "top_p": 0.0, "top_k": 0, "temperature": 9.0}
    assert drafted(model, eexit.load(folders["drafts"]), prompt, **asked) == plain(model, prompt)


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


OWN: dict[str, Any] = {
    "repetition_penalty": 1.3, "suppress_tokens": [5], "no_repeat_ngram_size": 2, "forced_eos_token_id": 7,
    "min_new_tokens": 3, "bad_words_ids": [[9]], "cache_implementation": "static",
}  # fmt: skip


def test_what_the_models_own_generation_config_sets_is_named_and_not_applied_and_a_callers_is_refused(
    folders: Folders, prompt: list[int]
) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["drafts"])
    expected = drafted(model, setting, prompt)
    model.generation_config.update(**OWN)
    with pytest.warns(UserWarning, match="the model's generation_config sets ") as warned:
        assert drafted(model, setting, prompt) == expected
    [said] = [str(each.message) for each in warned if "generation_config sets" in str(each.message)]
    assert all((f"{name}=" in said) == (name != "cache_implementation") for name in OWN)
    for asked, reason in (
        ({"repetition_penalty": 1.2}, "RepetitionPenaltyLogitsProcessor changes logits"),
        ({"min_new_tokens": 4}, "Min.*LengthLogitsProcessor changes logits"),
        ({"suppress_tokens": [6]}, "SuppressTokensLogitsProcessor changes logits"),
        ({"logits_processor": [RepetitionPenaltyLogitsProcessor(2.0)]}, "RepetitionPenaltyLogitsProcessor changes"),
        ({"cache_implementation": "offloaded"}, "cache_implementation=offloaded can't be followed"),
    ):
        with pytest.raises(UsageError, match=reason):
            drafted(model, setting, prompt, **asked)


def test_top_k_of_a_model_whose_own_file_samples_is_not_applied(folders: Folders, prompt: list[int]) -> None:
    model, setting = loaded(folders["model"]), eexit.load(folders["exits"])
    asked: dict[str, Any] = {"max_new_tokens": 4, "seed": 3, "custom_generate": setting}
    expected = plain(model, prompt, **asked, do_sample=True, temperature=0.7, top_k=0)
    model.generation_config.update(do_sample=True, temperature=0.7)
    with pytest.warns(UserWarning, match="generation_config sets top_k=50, which a setting does not apply"):
        found = model.generate(torch.tensor([prompt]), **asked)  # type: ignore[operator]  # of a mixin
    assert found[0, len(prompt) :].tolist() == expected
