import logging
import os
import sys
from functools import cache
from shutil import which

import pytest
import torch
from references import decoder_of
from traces import assert_same, kl_request
from transformers import PreTrainedModel

from eexit.cpu import kernels
from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig

REASONS = {"no-such-compiler": "No such file or directory: 'no-such-compiler'", "false": "are slower"}


@pytest.mark.parametrize("compiler", REASONS)
def test_rows_decode_without_a_compiler(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compiler: str
) -> None:
    engine = Engine(decoder_of(llama), DecodingConfig((1, 3, 4), 12, eos_token_ids=frozenset(), record_top_k=2))
    requests = [kl_request((5, 80, 7, 7, 31), "frozen_residual", k) for k in (0.3, 1.0)]
    has_compiler = sys.platform == "linux" and which(os.environ.get("CC", "cc"))
    assert kernels.divergence(torch.zeros(1, 2, 3), 0) or not has_compiler
    ours = dict(engine.generate(requests))
    for not_compiled_for in (torch.zeros(1, 2, 3).half(), torch.zeros(1, 2, 3, device="meta")):
        assert kernels.divergence(not_compiled_for, 0) is None
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(kernels, "_compiled", cache(kernels._compiled.__wrapped__))
    with caplog.at_level(logging.INFO):
        theirs = dict(engine.generate(requests))
    assert kernels.divergence(torch.zeros(1, 2, 3), 0) is None
    [message] = caplog.messages
    assert REASONS[compiler] in message
    for index in range(len(requests)):
        assert_same(ours[index], theirs[index])
