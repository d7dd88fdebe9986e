"""Variants of transformers' own `generate`: the tokens are those of plain `generate`, or nearly so in 8 bits."""

from importlib.util import find_spec

import pytest
import torch
from byte_model import save_byte_model

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.configuration import COMPILE, INT8, LOOKUP, Generate, Normal
from eexit.studies.timing.contenders import Contenders
from eexit.studies.timing.plain_generate import in_8_bits, settings_of, why_not_compiled

TOKENS = 10


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> Contenders:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    prompts = tuple(Prompt(id=text, prompt=text) for text in ("one", "two and two and"))
    config = SweepConfig(model=str(folder), prompts=prompts, dtype="float32", exit_every=2, rules={"fixed": (2.0,)})
    return Contenders(config, "cpu", TOKENS)


def test_transformers_own_with_lookup_writes_what_generate_does(contenders: Contenders) -> None:
    assert settings_of(Generate(variant=LOOKUP)) == {"prompt_lookup_num_tokens": 5}
    plain, looked_up = (
        contenders.time(each, 1, contenders.prompts)[1] for each in (Generate(), Generate(variant=LOOKUP))
    )
    assert looked_up == plain
    assert contenders.time(Normal(), 1, contenders.prompts)[1] == plain


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is an extra")
def test_8_bits_are_in_a_copy_of_the_model_and_say_nearly_the_same(contenders: Contenders) -> None:
    quantized, token_1T = in_8_bits(contenders.plain), torch.tensor([contenders.prompts[0]])
    with torch.inference_mode():
        own_TV, made_TV = (model(token_1T).logits[0] for model in (contenders.plain, quantized))
    assert 0 < (made_TV - own_TV).norm() / own_TV.norm() < 0.05
    assert contenders.time(Generate(variant=INT8), 2, contenders.prompts)[0].tokens == 2 * (TOKENS - 2)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)  # of compilers
def test_compiled_steps_write_what_generate_does_or_it_is_said_why_there_are_none(contenders: Contenders) -> None:
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(f"torch.compile compiles nothing here: {reason}")
    compiled = Generate(variant=COMPILE)
    assert contenders.warm_up(compiled, 1, 3) > 0
    assert contenders.time(compiled, 1, contenders.prompts)[1] == contenders.time(Generate(), 1, contenders.prompts)[1]


def test_it_is_said_why_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", raises)
    assert why_not_compiled(torch.device("cpu")) == "no C++ compiler"
