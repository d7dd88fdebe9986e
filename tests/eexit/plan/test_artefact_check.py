"""An artefact has to fit the model and layers of its sweep, and to stay as it was planned with."""

from pathlib import Path

import pytest
from untrained import N_LAYERS, TINY, artefact, config_with, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import READOUT, read_card, write_card


def test_an_artefact_of_another_model_or_of_other_layers_is_refused(tmp_path: Path) -> None:
    made = config_with(readout=str(artefact(tmp_path / "made", "linear", (READOUT,))))
    refuse_misfit(made, TINY, [1, 3])
    with pytest.raises(UsageError, match=r"was trained for model tiny, not for this other \(another digest\)"):
        refuse_misfit(made, {**TINY, "name": "other", "digest": "cd" * 32}, [1, 3])
    with pytest.raises(UsageError, match="was trained for layers 0 1 2 3 4 5, not for 6: give --exit-layers of these"):
        refuse_misfit(made, TINY, [1, 6])


def test_an_artefact_that_changes_after_the_sweep_was_planned_is_refused(tmp_path: Path) -> None:
    place = artefact(tmp_path / "made", "linear", (READOUT,))
    planned = config_with(readout=str(place))
    write_card(place, read_card(str(place), READOUT).model_copy(update={"readout": "raw"}))
    with pytest.raises(UsageError, match="was trained anew since this sweep was planned"):
        refuse_misfit(planned, TINY, [1])


def test_maps_of_another_model_or_of_other_layers_are_refused(tmp_path: Path) -> None:
    place = str(save_state_maps(tmp_path / "maps", stream_maps(), TINY))
    planned = config_with(kv_maps=place, modes=("normal", "mapped_residual"))
    for model, layers, message in (
        (TINY, [1, N_LAYERS - 1], "layers 0 1 2 3 4 5, not for 6"),
        ({**TINY, "name": "other", "digest": "cd" * 32}, [1], "model tiny, not for this other"),
    ):
        with pytest.raises(UsageError, match=rf"--kv-maps .* was trained for {message}"):
            refuse_misfit(planned, model, layers)
