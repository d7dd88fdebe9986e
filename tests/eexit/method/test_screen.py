"""The screen: the best low-rank approximation for the model's own head inputs."""

import pytest
import torch
from references import decoder_of
from transformers import PreTrainedModel

from eexit.errors import UsageError
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.sweeps.head_moment import second_moment


def test_its_error_on_head_inputs_is_less_than_a_truncated_svds(llama: PreTrainedModel) -> None:
    decoder = decoder_of(llama)
    moment_FF, weight_VF = second_moment(decoder), llama.get_output_embeddings().weight.detach()
    screen = Screen(decoder, ScreenSize(8, 2), moment_FF)
    u_VF, s_F, v_FF = torch.linalg.svd(weight_VF, full_matrices=False)
    root_FF = torch.linalg.cholesky(moment_FF + 1e-6 * torch.eye(len(moment_FF)))

    def error(approximation_VF: torch.Tensor) -> float:
        return float(((weight_VF - approximation_VF) @ root_FF).norm())

    assert error(screen.up_VR @ screen.down_RF) < error((u_VF[:, :8] * s_F[:8]) @ v_FF[:8])
    for size, message in (((33, 9), "33:9: the rank is above the width .* 32"), ((8, 98), "8:98: .* only 97 tokens")):
        with pytest.raises(UsageError, match=message):
            Screen(decoder, ScreenSize(*size), torch.eye(32))
