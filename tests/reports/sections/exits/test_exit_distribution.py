"""Where tokens exit: shares of each layer, averaged over prompts."""

from pathlib import Path

import pytest
from synthetic_sweeps import FINAL, LAYERS, swept

from reports.read.sweep import read_sweep
from reports.sections.exits.exit_distribution import exit_mix


def test_exit_mix_averages_the_shares_of_prompts(tmp_path: Path) -> None:
    counts = [[(5, 1), (FINAL, 1)], [(5, 9), (10, 1)]]
    folder = swept(tmp_path / "s", n_prompts=2, columns=lambda _, prompt, __: {"exit_layer_counts": counts[prompt]})
    mix = exit_mix(read_sweep(str(folder)))
    shares = mix[mix["configuration"] == "unfrozen/kl/1"].set_index("shown_layer")["share"]
    assert [shares[layer] for layer in ("5", "10", "29 (final)")] == pytest.approx([0.7, 0.05, 0.25])
    assert list(shares.index) == [*map(str, LAYERS), "29 (final)"]
