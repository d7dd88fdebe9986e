"""The tests of `pytest -m quick`: those that find most mistakes in little time, without Ray, a browser or a download.

Either all tests of a file are quick, or those whose names begin with one of its listed words. Slow tests, and tests
with a fixture in NOT_QUICK, are never quick.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
NOT_QUICK: Final = {"context", "node_modules", "ray_environment"}

# Folder → files whose tests are all quick.
WHOLE: Final = {
    "eexit/method": "divergence rules stick_breaking",
    "eexit/plan": "artefact_check artefacts configuration exit_layers grids prompts runs splits sweep_config",
    "eexit/output": "locations palette result_table",
    "eexit/results": "checksums layout original_format",
    "eexit/results/store": "commit folder manifest",
    "eexit/quality": "intervals risks rubric text_metrics thinking",
    "eexit/studies/selection": "alpha_spending select_setting selection_args selection_data",
    "reports/shared": "paired per_configuration quality savings",
    "reports/sections": "contrasts drafts learned_exits overview verdict",
    "reports/page": "build pack_tokens",
    "reports/read": "committed_runs sweep",
    ".": "house",
}
# Other file → beginnings of the names of its quick tests, without `test_`.
PARTLY: Final = {
    # Each rule and mode, alone and in a batch, against the method in plain loops and against `generate`.
    "eexit/test_invariants.py": """
        every_rule_is_tested
        invariant_1_normal_is_greedy_generate[llama]
        invariant_2_the_ends_of_every_rule
        invariant_3_rule_kl_and_an_online_one_match_the_naive_reference[llama]
        invariant_3_holds_for_every_rule_and_mode[gpt_neox
        invariant_3_holds_for_the_kl_generator
        invariant_3_holds_however_rows_decode[readout1
        invariant_4_a_row_is_the_same_alone_and_beside_others[llama]
        invariant_7_a_row_runs_what_its_counts_state_and_no_more_than_its_exits_need[llama]""",
    "eexit/decode/test_draft.py": """
        greedy_drafts_are_the_text_of_normal_whatever_runs_layers[llama]
        drafts_match_the_naive_reference_whatever_ends_other_rows_and_the_readout[llama]
        a_draft_at_a_temperature a_row_runs_what_its_counts_state[llama]
        what_is_no_draft""",
    "eexit/costs/test_operations.py": """
        full_depth_costs_what_the_models_own_forward_does[llama]
        the_parts_of_a_llama costs_are_those_of_every_layer exits_need""",
    # Plans and bad input, without a process.
    "jobs/test_sweep.py": "bad_input_ends_with_one_line",
    "cluster/console/test_dry_run.py": "the_plan_is_shown",
    # Commits, and damaged files.
    "eexit/output/test_atomic_files.py": "of_several a_link until",
    # Answers, risks and selection.
    "eexit/quality/test_grading.py": "of_ a_number what_the at_least",
    "eexit/quality/test_learn_then_test.py": """
        a_sequence asks_share the_order
        nothing_above_the_bound_is_certified_more_than_stated[pareto-4-0""",
    "eexit/quality/test_risk_tests.py": "p_values the_ a_ how_many so_many what_may",
}

QUICK: Final = {
    **{file: tuple(f"test_{word}" for word in words.split()) for file, words in PARTLY.items()},
    **{f"{folder}/test_{name}.py".removeprefix("./"): ("test_",) for folder in WHOLE for name in WHOLE[folder].split()},
}


def is_quick(path: Path, name: str, fixtures: Iterable[str]) -> bool:
    return name.startswith(QUICK.get(_key(path), ())) and not NOT_QUICK & {*fixtures}


def has_quick_tests(path: Path) -> bool:
    return _key(path) in QUICK


def _key(path: Path) -> str:
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
