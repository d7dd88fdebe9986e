"""Artefacts on disk: which ones may be used, and with what."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from references import decoder_of, save_adapter, shared_model
from safetensors.torch import save_file
from untrained import LINEAR, N_LAYERS, PROBE, key_maps, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, STREAMS
from eexit.model.sources import sha256
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import CARD, FLAGS, GATE, READOUT, WEIGHTS, ArtefactCard, read_card, write_card
from eexit.plan.artefacts import PROBE as PROBE_ROLE
from eexit.plan.config import NO_EXITS, SweepConfig
from eexit.plan.model_inspection import InspectedModel, _memory
from eexit.plan.runs import plan_runs
from eexit.sweeps.load_artefacts import load_kv_maps, load_probe, load_readout
from eexit.training.trainer_inputs import WAYS

MODEL = {"name": "tiny", "digest": "ab" * 32, "revision": None, "n_layers": 7}
RULES = ["predicted_kl=1"]


def artefact(folder: Path, what: str, holds: tuple[str, ...], **card: Any) -> Path:
    folder.mkdir()
    save_file(LINEAR.tensors() if READOUT in holds else PROBE.tensors(), folder / WEIGHTS)
    files = {WEIGHTS: sha256([folder / WEIGHTS])}
    fields = {
        "what": what,
        "holds": holds,
        "model": MODEL,
        "layers": range(6),
        "readout": "lens",
        "files": files,
        **card,
    }
    write_card(folder, ArtefactCard.model_validate(fields))
    return folder


def config(**fields: Any) -> SweepConfig:
    rules = RULES if "probe" in fields else ["agree"]
    return SweepConfig.model_validate({"prompts": [{"id": "0", "prompt": "Why?"}], "rules": rules, **fields})


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    linear, probe = (
        artefact(tmp_path / "linear", "linear", (READOUT,)),
        artefact(tmp_path / "probe", "probe", (PROBE_ROLE,)),
    )
    readout = load_readout(config(readout=str(linear)), [1, 3], decoder_of(shared_model("llama")))
    assert all(part.equal(getattr(LINEAR.maps[3], name)) for name, part in vars(vars(readout)["maps"][3]).items())
    loaded, hidden_BW = (
        load_probe(config(probe=str(probe)), [1, 3], decoder_of(shared_model("llama"))),
        torch.randn(4, 32),
    )
    assert loaded is not None
    for layer in (1, 3):
        ours, its = (probe.predicted_kl(hidden_BW, layer, torch.full((4,), 0.5)) for probe in (loaded, PROBE))
        assert ours.equal(its)


def test_runs_depend_on_what_was_trained_and_not_on_where_it_lies(tmp_path: Path) -> None:
    def ids(place: Path) -> list[str]:
        return [run.run_id for run in plan_runs(config(readout=str(place)))]

    first = artefact(tmp_path / "first", "linear", (READOUT,))
    its, of_lens = ids(first), [run.run_id for run in plan_runs(config())]
    assert ids(first.rename(tmp_path / "elsewhere")) == its
    assert ids(artefact(tmp_path / "other", "linear", (READOUT,), layers=range(5))) != its
    assert its != of_lens


@pytest.mark.parametrize(
    ("field", "what", "holds", "card", "says"),
    [
        ("readout", "probe", (PROBE_ROLE,), {},
         "holds no readout, since it was trained with --what probe: give --probe {}"),
        ("probe", "linear", (READOUT,), {},
         "holds no probe, since it was trained with --what linear: give --readout {}"),
        ("probe", "probe", (PROBE_ROLE,), {"readout": "raw"},
         "predicts KLs of readout raw, not of lens: give --readout as it was trained with"),
        ("probe", "probe", (PROBE_ROLE,), {"adapter": "ab" * 32},
         "was trained on a student's streams: give --adapter as it was there"),
        ("probe", "probe", (PROBE_ROLE,), {"files": {WEIGHTS: "0"}},
         f"is damaged: {WEIGHTS} is not the file that was trained; train it again: "
         "eexit train RESULTS --what probe --out {}"),
        ("probe", "probe", (PROBE_ROLE,),
         {"files": {WEIGHTS: "0", "gone": "0"}, "data": {"sweep": "results/my texts"},
          "settings": {"what": "probe", "layers": [5, 10], "readout": "ab" * 32}},
         f"is damaged: {WEIGHTS} is not the file that was trained; train it again: eexit train "
         "'results/my texts' --what probe --out {} --exit-layers 5 10 --readout FOLDER"),
        ("readout", "linear", (READOUT,), {"files": {}}, f"is damaged: {CARD} does not name {WEIGHTS}; train it again: "
         "eexit train RESULTS --what linear --out {}"),
    ],
)  # fmt: skip
def test_an_artefact_that_does_not_fit_is_refused_in_a_line(
    tmp_path: Path, field: str, what: str, holds: tuple[str, ...], card: dict[str, Any], says: str
) -> None:
    place = artefact(tmp_path / "made", what, holds, **card)
    with pytest.raises(ValidationError) as refused:
        config(**{field: str(place)})
    assert str(refused.value.errors()[0]["ctx"]["error"]) == f"--{field} {place} {says.replace('{}', str(place))}"


def test_an_artefact_of_another_model_or_of_other_layers_is_refused(tmp_path: Path) -> None:
    made = config(readout=str(artefact(tmp_path / "made", "linear", (READOUT,))))
    refuse_misfit(made, MODEL, [1, 3])
    with pytest.raises(UsageError, match=r"was trained for model tiny, not for this other \(another digest\)"):
        refuse_misfit(made, {**MODEL, "name": "other", "digest": "cd" * 32}, [1, 3])
    with pytest.raises(UsageError, match="was trained for layers 0 1 2 3 4 5, not for 6: give --exit-layers of these"):
        refuse_misfit(made, MODEL, [1, 6])


def test_an_artefact_that_changes_after_the_sweep_was_planned_is_refused(tmp_path: Path) -> None:
    place = artefact(tmp_path / "made", "linear", (READOUT,))
    planned = config(readout=str(place))
    write_card(place, read_card(str(place), READOUT).model_copy(update={"readout": "raw"}))
    with pytest.raises(UsageError, match="was trained anew since this sweep was planned"):
        refuse_misfit(planned, MODEL, [1])


KINDS: dict[str, dict[str, Any]] = {
    "linear": {"table": [{"layer": 1, "series": "lens", "n": 9, "agreement": 0.25}]},
    "probe": {"readout": "ab" * 32, "seconds": 12.5},
    "gate": {"settings": {"what": "gate", "layers": [1, 3], "rules": ["confidence/0.9"]}},
    "kv-maps": {"data": {"sweep": "results/texts", "n_prompts": 7}, "versions": {"torch": "2.9.0", "eexit": None}},
}


@pytest.mark.parametrize("what", KINDS)
def test_no_flipped_bit_of_a_card_is_read_as_data(tmp_path: Path, what: str) -> None:
    role = WAYS[what].role
    place = artefact(tmp_path / "made", what, (role,), **KINDS[what])
    file, whole = place / CARD, (place / CARD).read_bytes()
    assert read_card(str(place), role).what == what
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(UsageError) as refused:
            read_card(str(place), role)
        assert str(refused.value).startswith(
            f"{FLAGS[role]} {place} has a {CARD} that is damaged, or of another version"
        )
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "[]", '{"what": "linear"}', json.dumps({"what": "linear", "more": 1})])
def test_a_damaged_card_is_refused_in_a_line(tmp_path: Path, content: str) -> None:
    (tmp_path / CARD).write_text(content)
    with pytest.raises(
        UsageError,
        match=f"--readout {tmp_path} has a {CARD} that is damaged, or of another version: train it again, by the "
        f"command that made it: eexit train … --out {tmp_path}$",
    ):
        read_card(str(tmp_path), READOUT)


def test_a_folder_without_a_card_may_be_a_training_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the command that began it goes on with it"):
        read_card(str(tmp_path), READOUT)
    with pytest.raises(UsageError, match=r"is not a folder that is there: give lens, raw or one that eexit train made"):
        read_card(str(tmp_path / "nowhere"), READOUT)


MAPPING = {"modes": ("normal", "mapped_residual")}


@pytest.mark.parametrize("form", FORMS)
def test_state_maps_are_loaded_for_the_layers_of_the_sweep(tmp_path: Path, form: str) -> None:
    decoder = decoder_of(shared_model("llama"))
    given = stream_maps() if form == STREAMS else key_maps(decoder)
    place = str(save_state_maps(tmp_path / "maps", given, MODEL))
    maps = load_kv_maps(config(kv_maps=place, **MAPPING), [1, 3], decoder)
    assert maps
    assert maps.form == form
    assert {exit_layer for exit_layer, _ in maps.of_layers} == {1, 3}
    assert all(tensor.equal(given[name]) for name, tensor in maps.tensors().items())
    assert load_kv_maps(config(), [1, 3], decoder) is None


def test_full_depth_alone_uses_nothing_that_was_learned_for_exits(tmp_path: Path) -> None:
    learned = {
        "kv_maps": str(save_state_maps(tmp_path / "maps", stream_maps(), MODEL)),
        "gate": str(artefact(tmp_path / "gate", "gate", (GATE,))),
        "gate_thresholds": (0.3,),
    }
    config = SweepConfig.model_validate(
        {"prompts": [{"id": "0", "prompt": "Why?"}], "rules": ["confidence=0.9"], **learned, **MAPPING}
    )
    plain = SweepConfig.model_validate({**dict(config), "digests": {}, **NO_EXITS})
    assert (plain.kv_maps, plain.gate, len(list(plan_runs(plain)))) == (None, None, 1)


def test_state_maps_need_memory_on_top(tmp_path: Path) -> None:
    place = save_state_maps(tmp_path / "maps", stream_maps(), MODEL)
    found = InspectedModel(MODEL, 1000, 10, None)
    mapped, plain = (_memory(each, 1, found) for each in (config(kv_maps=str(place), **MAPPING), config()))
    assert mapped
    assert plain
    assert (plain.weights, mapped.weights) == (1000, 1000 + (place / WEIGHTS).stat().st_size)


def test_maps_to_keys_and_values_are_refused_where_layers_have_no_projections(tmp_path: Path) -> None:
    place = str(save_state_maps(tmp_path / "maps", key_maps(decoder_of(shared_model("llama"))), MODEL))
    with pytest.raises(UsageError) as refusal:
        load_kv_maps(config(kv_maps=place, **MAPPING), [1], decoder_of(shared_model("gpt2")))
    assert str(refusal.value) == (
        f"--kv-maps {place} is of form keys, but layer 0 makes keys and values by no modules of their own: "
        f"train maps of "
        "form streams"
    )


def test_a_state_that_maps_and_its_maps_come_together(tmp_path: Path) -> None:
    place = str(save_state_maps(tmp_path / "maps", stream_maps(), MODEL))
    linear = str(artefact(tmp_path / "linear", "linear", (READOUT,)))
    with pytest.raises(ValidationError, match=r"mode mapped_residual makes .* by trained maps: give --kv-maps"):
        config(**MAPPING)
    with pytest.raises(ValidationError, match=r"mode mapped_residual makes .* by trained maps: give --kv-maps"):
        config(controls=[{"of": "mapped_residual/agree", "counts": {1: 2, 6: 1}}])
    with pytest.raises(ValidationError, match=r"maps has no effect: give mode mapped_residual"):
        config(kv_maps=place)
    with pytest.raises(
        ValidationError, match="holds no kv_maps, since it was trained with --what linear: give --readout"
    ):
        config(kv_maps=linear, **MAPPING)
    adapter = save_adapter(shared_model("llama"), tmp_path / "student")
    with pytest.raises(ValidationError, match=r"was trained on the model's own streams: give --adapter as it was"):
        config(kv_maps=place, adapter=adapter, **MAPPING)
    planned = config(kv_maps=place, **MAPPING)
    with pytest.raises(UsageError, match=r"--kv-maps .* was trained for layers 0 1 2 3 4 5, not for 6"):
        refuse_misfit(planned, MODEL, [1, N_LAYERS - 1])
    with pytest.raises(UsageError, match=r"--kv-maps .* was trained for model tiny, not for this other"):
        refuse_misfit(planned, {**MODEL, "name": "other", "digest": "cd" * 32}, [1])


def test_ids_depend_on_what_state_maps_are_where_they_are_used_and_not_on_where_they_lie(tmp_path: Path) -> None:
    places = [save_state_maps(tmp_path / name, stream_maps(), MODEL) for name in "ab"]
    other = save_state_maps(tmp_path / "c", stream_maps(std=0.2), MODEL)
    first, moved, changed = (
        [run.run_id for run in plan_runs(config(kv_maps=str(place), **MAPPING))] for place in (*places, other)
    )
    assert first == moved
    plain = [run.run_id for run in plan_runs(config(modes=["normal"]))]
    assert {*first} & {*changed} == {*plain}, "normal has none"


def test_a_rule_and_its_probe_come_together() -> None:
    with pytest.raises(ValidationError, match="rule predicted_kl looks at a trained probe: give --probe"):
        config(rules=RULES)
