"""Valid sweeps, defined in Python or in a file."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from references import save_adapter, shared_model
from untrained import TINY, artefact, config_with, save_state_maps, stream_maps

from eexit.model.sources import PEFT_FILES, sha256
from eexit.plan.artefacts import FLAGS, GATE, READOUT, WEIGHTS, ArtefactCard, write_card
from eexit.plan.runs import plan_runs
from eexit.plan.sweep_config import NO_EXITS, Prompt, SweepConfig

PROMPTS = (Prompt(id="0", prompt="x"),)
MAPPING = {"modes": ("normal", "mapped_residual")}


def test_defaults_are_the_documented_grid() -> None:
    config = SweepConfig(prompts=PROMPTS)
    assert config.modes == ("normal", "unfrozen", "frozen_residual")
    assert config.rules == {"kl": (0.5, 1.0, 2.0, 4.0)}
    assert (config.exit_every, config.readout, config.temperature) == (5, "lens", 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modes": []}, "at least 1 item"),
        ({"kl_factors": [float("nan")]}, "rule kl takes a KL factor ≥ 0, as in kl=0.5, got nan"),
        ({"kl_factors": []}, "only mode normal can do without one"),
        ({"exit_layers": [3, 3]}, "must be strictly increasing, got 3,3"),
        ({"exit_layers": []}, "at least 1 item"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"record_full_depth": "some"}, "Input should be 'all', 'final' or 'none'"),
        (
            {"record_full_depth": "none"},
            "rule kl decides by what the full-depth model predicts at every exitable layer, which",
        ),
        (
            {"record_full_depth": "final", "rules": {"fixed": [5], "agree": []}},
            "rule agree decides .* give --record-full-depth all",
        ),
        ({"thinking": ["<think>"]}, "thinking takes what opens a chain of thought and what closes it, .* got <think>"),
        ({"thinking": ["<t>", "<t>"]}, "as in <think> </think>, or none, got <t> <t>"),
        ({"thinking_until": ""}, "thinking_until is empty: give a pattern, or --thinking none where texts don't think"),
        ({"thinking_until": "(answer"}, "thinking_until '\\(answer' is no regular expression .missing .*: mend it"),
        ({"thinking": ["<t>", "</t>"], "thinking_until": "A:"}, "thinking <t> </t> and thinking_until A: both say"),
        ({"beam": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    """Flags and TOML are tested, with their messages, in `tests/cluster/console/test_flags_from_config.py`."""
    with pytest.raises(ValidationError, match=message):
        SweepConfig.model_validate({"prompts": PROMPTS, **fields})


def test_normal_alone_needs_no_factor_and_no_observation() -> None:
    assert SweepConfig.model_validate({"prompts": PROMPTS, "modes": ("normal",), "kl_factors": ()}).rules == {}
    assert SweepConfig(prompts=PROMPTS, modes=("normal",), record_full_depth="none").rules


def test_kl_factors_are_short_for_parameters_of_rule_kl() -> None:
    short = SweepConfig.model_validate({"prompts": PROMPTS, "kl_factors": (1, 2), "rules": {"agree": ()}})
    assert short == SweepConfig(prompts=PROMPTS, rules={"kl": (1, 2), "agree": ()})
    assert "kl_factors" not in short.model_dump(), "what a sweep is has one field for rules"
    earlier = {**short.model_dump(mode="json"), "rules": {"agree": []}, "kl_factors": [1, 2]}  # as results have them
    assert SweepConfig.model_validate(earlier) == short


def test_a_configuration_is_frozen_and_survives_json() -> None:
    config = SweepConfig(prompts=PROMPTS, exit_layers=(1, 2), rules={"kl": (0.1, 3)})
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.temperature = 1.0  # type: ignore[misc]  # it is refused by mypy too


def test_a_control_has_the_mode_of_what_it_follows() -> None:
    config = SweepConfig.model_validate(
        {"prompts": PROMPTS, "controls": [{"of": "skip/kl/1", "counts": {5: 2, 29: 1}}]}
    )
    assert config.controls[0].mode == "skip"
    with pytest.raises(
        ValidationError, match="normal is no configuration that exits: its mode must be one of unfrozen"
    ):
        SweepConfig.model_validate({"prompts": PROMPTS, "controls": [{"of": "normal", "counts": {29: 1}}]})


HERE = "an artefact of any role"
GATED = {"rules": {"confidence": (0.9,)}, "gate": HERE}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate_thresholds": (0.3,)}, "gate_thresholds have no effect: give --gate"),
        (GATED | {"rules": {"similarity": (0.9,)}}, "has no effect: give a rule that reads layers"),
        (GATED | {"rules": {"patience": (2.0,)}}, "rule patience compares all layers of its set"),
        ({"screen": "8:1"}, "selects 2 tokens or more"),
        ({"screen": "whole"}, "screen is RANK:TOKENS, as in 32:256, got 'whole'"),
    ],
)
def test_gates_and_screens_that_decide_nothing_or_wrongly_are_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    for name in (WEIGHTS, *PEFT_FILES):
        (tmp_path / name).touch()
    files = {WEIGHTS: sha256([tmp_path / WEIGHTS])}
    write_card(
        tmp_path, ArtefactCard(what="any", holds=tuple(FLAGS), model={}, layers=(5,), readout="lens", files=files)
    )
    there = {name: str(tmp_path) if value == HERE else value for name, value in fields.items()}
    with pytest.raises(ValidationError, match=message):
        SweepConfig.model_validate({"prompts": PROMPTS, **there})


def test_full_depth_alone_uses_nothing_that_was_learned_for_exits(tmp_path: Path) -> None:
    learned = {
        "kv_maps": str(save_state_maps(tmp_path / "maps", stream_maps(), TINY)),
        "gate": str(artefact(tmp_path / "gate", "gate", (GATE,))),
        "gate_thresholds": (0.3,),
    }
    config = SweepConfig.model_validate(
        {"prompts": [{"id": "0", "prompt": "Why?"}], "rules": ["confidence=0.9"], **learned, **MAPPING}
    )
    plain = SweepConfig.model_validate({**dict(config), "digests": {}, **NO_EXITS})
    assert (plain.kv_maps, plain.gate, len(list(plan_runs(plain)))) == (None, None, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": ["predicted_kl=1"]}, "rule predicted_kl reads a trained probe: give --probe"),
        (MAPPING, "mode mapped_residual uses trained KV maps: give --kv-maps"),
        ({"controls": [{"of": "mapped_residual/agree", "counts": {1: 2, 6: 1}}]}, "mapped_residual makes keys and val"),
        ({"kv_maps": "maps"}, r"maps has no effect: give mode mapped_residual"),
        ({"kv_maps": "linear", **MAPPING}, "holds no kv_maps, since it was trained with --what linear: give --readout"),
        (
            {"kv_maps": "maps", "adapter": "student", **MAPPING},
            "was trained on the model's own hidden states: give --adapter",
        ),
    ],
)
def test_what_is_trained_and_what_uses_it_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_state_maps(Path("maps"), stream_maps(), TINY)
    artefact(Path("linear"), "linear", (READOUT,))
    save_adapter(shared_model("llama"), Path("student"))
    with pytest.raises(ValidationError, match=message):
        config_with(**fields)
