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
WHOLE: Final[dict[str, tuple[str, ...]]] = {
    "eexit/method": ("divergence", "rules", "stick_breaking"),
    "eexit/plan": (
        "artefact_check",
        "artefacts",
        "configuration",
        "grids",
        "prompts",
        "runs",
        "splits",
        "sweep_config",
    ),
    "eexit/output": ("locations", "palette", "result_table"),
    "eexit/results": ("checksums", "layout", "original_format"),
    "eexit/results/store": ("commit", "folder", "manifest"),
    "eexit/quality": ("intervals", "risks", "rubric", "text_metrics", "thinking"),
    "eexit/studies/selection": ("alpha_spending", "select_setting", "selection_args", "selection_data"),
    "reports/shared": ("paired", "per_configuration", "quality", "savings"),
    "reports/sections": ("contrasts", "drafts", "learned_exits", "overview", "verdict"),
    "reports/page": ("build", "pack_tokens"),
    "reports/read": ("committed_runs", "sweep"),
    ".": ("house", "mirror"),
}
# Other file → beginnings of the names of its quick tests.
PARTLY: Final[dict[str, tuple[str, ...]]] = {
    # Each rule and mode, alone and in a batch, against the method in plain loops and against `generate`.
    "eexit/test_invariants.py": (
        "test_every_rule_is_tested",
        "test_invariant_1_normal_is_greedy_generate[llama]",
        "test_invariant_2_the_ends_of_every_rule",
        "test_invariant_3_rule_kl_and_an_online_one_match_the_naive_reference[llama]",
        "test_invariant_3_holds_for_every_rule_and_mode[gpt_neox",
        "test_invariant_3_holds_for_the_kl_generator",
        "test_invariant_3_holds_however_rows_decode[readout1",
        "test_invariant_4_a_row_is_the_same_alone_and_beside_others[llama]",
        "test_invariant_7_a_row_runs_what_its_counts_state_and_no_more_than_its_exits_need[llama]",
    ),
    "eexit/decode/test_draft.py": (
        "test_greedy_drafts_are_the_text_of_normal_whatever_runs_layers[llama]",
        "test_drafts_match_the_naive_reference_whatever_ends_other_rows[llama]",
        "test_a_draft_at_a_temperature",
        "test_a_learned_readout_drafts",
        "test_a_row_runs_what_its_counts_state[llama]",
        "test_what_is_no_draft",
    ),
    "eexit/costs/test_operations.py": (
        "test_full_depth_costs_what_the_models_own_forward_does[llama]",
        "test_the_parts_of_a_llama",
        "test_costs_are_those_of_every_layer",
        "test_exits_need",
    ),
    "eexit/plan/test_exit_layers.py": ("test_",),
    # Plans and bad input, without a process.
    "jobs/test_sweep.py": ("test_bad_input_ends_with_one_line", "test_a_relative_out"),
    "cluster/console/test_dry_run.py": ("test_the_plan_is_shown",),
    # Commits, and damaged files.
    "eexit/output/test_atomic_files.py": ("test_of_several", "test_a_link", "test_until"),
    # Answers, risks and selection.
    "eexit/quality/test_grading.py": ("test_of_", "test_a_number", "test_what_the", "test_at_least"),
    "eexit/quality/test_learn_then_test.py": (
        "test_a_sequence",
        "test_asks_share",
        "test_the_order",
        "test_nothing_above_the_bound_is_certified_more_than_stated[pareto-4-0 or 1]",
    ),
    "eexit/quality/test_risk_tests.py": (
        "test_p_values",
        "test_the_",
        "test_a_",
        "test_how_many",
        "test_so_many",
        "test_what_may",
    ),
}

QUICK: Final = PARTLY | {
    f"{folder}/test_{name}.py".removeprefix("./"): ("test_",) for folder, names in WHOLE.items() for name in names
}


def is_quick(path: Path, name: str, fixtures: Iterable[str]) -> bool:
    return name.startswith(QUICK.get(_key(path), ())) and not NOT_QUICK & {*fixtures}


def has_quick_tests(path: Path) -> bool:
    return _key(path) in QUICK


def _key(path: Path) -> str:
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
