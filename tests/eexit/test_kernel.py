import logging
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from eexit import kernel
from eexit.anatomy import Decoder
from eexit.config import Mode
from eexit.engine import Engine
from eexit.rows import Decoding, Request, Trace


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    kernel._library.cache_clear()
    yield
    kernel._library.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-compiler", "no C compiler named no-such-compiler"), ("false", "the slower way")]
)
def test_without_a_compiler_that_can_rows_decode_all_the_same(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compiled_anew: None,
    compiler: str, reason: str,
):  # fmt: skip
    decoding = Decoding(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset(), record_top_k=2)
    engine = Engine(Decoder(llama), decoding)
    requests = [Request((5, 80, 7, 7, 31), Mode.FROZEN_RESIDUAL, k) for k in (0.3, 1.0)]
    ours = dict(engine.generate(requests))
    kernel._library.cache_clear()
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.INFO):
        theirs = dict(engine.generate(requests))
    assert kernel.kernel_for(torch.zeros(1)) is None
    assert [reason in message for message in caplog.messages] == [True]
    for index in range(len(requests)):
        for name in (field.name for field in fields(Trace)):
            mine, its = getattr(ours[index], name), getattr(theirs[index], name)
            if name == "finish_reason":
                assert mine == its
            else:
                np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4, err_msg=name)


def test_logits_it_is_not_for_are_left_to_torch():
    assert kernel.kernel_for(torch.zeros(1, dtype=torch.float16)) is None
    assert kernel.kernel_for(torch.zeros(1, device="meta")) is None
