"""Valid sweeps, defined in Python or in a file."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from references import save_adapter, shared_model
from untrained import TINY, artefact, config_with, save_state_maps, stream_maps

from eexit.plan.artefacts import GATE, READOUT
from eexit.plan.runs import plan_runs
from eexit.plan.sweep_config import NO_EXITS, Prompt, SweepConfig

PROMPTS = (Prompt(id="0", prompt="x"),)
MAPPING = {"modes": ("normal", "mapped_residual")}


@pytest.fixture(scope="module", autouse=True)
def _in_a_folder_with_artefacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("artefacts")
    save_state_maps(folder / "maps", stream_maps(), TINY)
    artefact(folder / "linear", "linear", (READOUT,))
    artefact(folder / "gate", "gate", (GATE,))
    save_adapter(shared_model("llama"), folder / "student")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def test_defaults_are_the_documented_grid_and_normal_alone_needs_neither_factor_nor_observation() -> None:
    config = SweepConfig(prompts=PROMPTS)
    assert config.modes == ("normal", "unfrozen", "frozen_residual")
    assert config.rules == {"kl": (0.5, 1.0, 2.0, 4.0)}
    assert (config.exit_every, config.readout, config.temperature) == (5, "lens", 0.0)
    assert SweepConfig.model_validate({"prompts": PROMPTS, "modes": ("normal",), "kl_factors": ()}).rules == {}
    assert SweepConfig(prompts=PROMPTS, modes=("normal",), record_full_depth="none").rules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modes": []}, "at least 1 item"),
        ({"kl_factors": [float("nan")]}, "rule kl takes a KL factor ≥ 0, as in kl=0.5, got nan"),
        ({"rules": {}}, "only mode normal can do without one"),
        ({"exit_layers": [3, 3]}, "must be strictly increasing, got 3,3"),
        ({"exit_layers": []}, "at least 1 item"),
        ({"record_full_depth": "none", "rules": ["kl=1"]}, "rule kl decides by what"),
        ({"record_full_depth": "final", "rules": ["fixed=5", "agree"]}, "rule agree decides .*: give --record"),
        ({"thinking": ["<think>"]}, "what opens a chain of thought and what closes it, .* got <think>"),
        ({"thinking": ["<t>", "<t>"]}, "as in <think> </think>, or none, got <t> <t>"),
        ({"thinking_until": ""}, "thinking_until is empty"),
        ({"thinking_until": "(answer"}, r"thinking_until '\(answer' is no regular expression \(missing"),
        ({"thinking": ["<t>", "</t>"], "thinking_until": "A:"}, "thinking <t> </t> and thinking_until A: both mark"),
        ({"controls": [{"of": "normal", "counts": {29: 1}}]}, "normal is no configuration that exits"),
        ({"screen": "8:1"}, "selects 2 tokens or more"),
        ({"screen": "whole"}, "screen is RANK:TOKENS, as in 32:256, got 'whole'"),
        ({"gate_thresholds": (0.3,)}, "gate_thresholds have no effect: give --gate"),
        ({"prompt_exits": True, "modes": ["normal"]}, "prompt_exits has no effect: give a mode and a rule that exit"),
        ({"gate": "gate", "rules": ["similarity=0.9"]}, "has no effect: give a rule that reads layers"),
        ({"gate": "gate", "rules": ["patience=2"]}, "rule patience compares all layers of its set"),
        ({"rules": ["predicted_kl=1"]}, "rule predicted_kl reads a trained probe: give --probe"),
        (MAPPING, "mode mapped_residual uses trained KV maps: give --kv-maps"),
        ({"controls": [{"of": "mapped_residual/agree", "counts": {1: 2, 6: 1}}]}, "uses trained KV maps"),
        ({"kv_maps": "maps"}, r"maps has no effect: give mode mapped_residual"),
        ({"kv_maps": "linear", **MAPPING}, "holds no kv_maps, since it was trained with --what linear: give --readout"),
        ({"kv_maps": "maps", "adapter": "student", **MAPPING}, "on the model's own hidden states: give --adapter"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    """Flags and TOML are tested, with their messages, in `tests/cluster/console/test_flags_from_config.py`."""
    with pytest.raises(ValidationError, match=message):
        config_with(**fields)


def test_kl_factors_are_short_for_parameters_of_rule_kl_and_a_sweep_is_frozen_and_survives_json() -> None:
    short = SweepConfig.model_validate({"prompts": PROMPTS, "kl_factors": (1, 2), "rules": {"agree": ()}})
    assert short == SweepConfig(prompts=PROMPTS, rules={"kl": (1, 2), "agree": ()})
    assert "kl_factors" not in short.model_dump(), "what a sweep is has one field for rules"
    earlier = {**short.model_dump(mode="json"), "rules": {"agree": []}, "kl_factors": [1, 2]}  # as results have them
    assert SweepConfig.model_validate(earlier) == short

    controls = [{"of": "skip/kl/1", "counts": {5: 2, 29: 1}}]
    config = config_with(exit_layers=(1, 2), rules={"kl": (0.1, 3)}, controls=controls)
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config
    assert config.controls[0].mode == "skip", "the mode of what a control follows"
    with pytest.raises(ValidationError, match="frozen"):
        config.temperature = 1.0  # type: ignore[misc]  # it is refused by mypy too


def test_full_depth_alone_uses_nothing_that_was_learned_for_exits() -> None:
    learned = {"kv_maps": "maps", "gate": "gate", "gate_thresholds": (0.3,), **MAPPING}
    config = config_with(rules=["confidence=0.9"], **learned)
    plain = SweepConfig.model_validate({**dict(config), "digests": {}, **NO_EXITS})
    assert (plain.kv_maps, plain.gate, len(list(plan_runs(plain)))) == (None, None, 1)
