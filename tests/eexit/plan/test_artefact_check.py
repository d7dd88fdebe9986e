"""An artefact has to fit the model and layers of its sweep, and to stay as it was planned with."""

from pathlib import Path

import pytest
from untrained import N_LAYERS, TINY, artefact, config_with, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import READOUT, read_card, write_card


@pytest.mark.parametrize("role", ["readout", "kv_maps"])
def test_an_artefact_of_another_model_or_of_other_layers_or_a_changed_one_is_refused(tmp_path: Path, role: str) -> None:
    place = tmp_path / "made"
    if role == READOUT:
        planned = config_with(readout=str(artefact(place, "linear", (READOUT,))))
    else:
        maps = str(save_state_maps(place, stream_maps(), TINY))
        planned = config_with(kv_maps=maps, modes=("normal", "mapped_residual"))
    refuse_misfit(planned, TINY, [1, N_LAYERS - 2])
    other = {**TINY, "name": "other", "digest": "cd" * 32}
    with pytest.raises(UsageError, match=r" was trained for model tiny, not for this other \(another digest\)"):
        refuse_misfit(planned, other, [1])
    with pytest.raises(UsageError, match=" was trained for layers 0 1 2 3 4 5, not for 6: give --exit-layers"):
        refuse_misfit(planned, TINY, [1, N_LAYERS - 1])
    write_card(place, read_card(str(place), role).model_copy(update={"readout": "raw"}))
    with pytest.raises(UsageError, match="was trained anew since this sweep was planned"):
        refuse_misfit(planned, TINY, [1])
