"""Variants of transformers' own `generate`: the tokens are those of plain `generate`, or nearly so in 8 bits."""

import pytest
from byte_model import save_byte_model

from eexit.plan.configuration import LOOKUP, HFGenerate, NoExit
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.studies.timing.decode_timer import DecodeTimer
from eexit.studies.timing.plain_generate import settings_of

TOKENS = 10


@pytest.fixture(scope="module")
def alternatives(tmp_path_factory: pytest.TempPathFactory) -> DecodeTimer:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    prompts = tuple(Prompt(id=text, prompt=text) for text in ("one", "two and two and"))
    config = SweepConfig(model=str(folder), prompts=prompts, dtype="float32", exit_every=2, rules={"fixed": (2.0,)})
    return DecodeTimer(config, "cpu", TOKENS)


def test_transformers_own_with_lookup_writes_what_generate_does(alternatives: DecodeTimer) -> None:
    assert settings_of(HFGenerate(variant=LOOKUP)) == {"prompt_lookup_num_tokens": 5}
    plain, looked_up = (
        alternatives.time(each, 1, alternatives.prompts)[1] for each in (HFGenerate(), HFGenerate(variant=LOOKUP))
    )
    assert looked_up == plain
    assert alternatives.time(NoExit(), 1, alternatives.prompts)[1] == plain
