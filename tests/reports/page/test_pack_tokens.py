"""Tokens in the page's file: few bytes, and numbers to a few per cent. What the page reads back: `template/`."""

from itertools import product
from pathlib import Path

import numpy as np
from synthetic_sweeps import CONFIGURATIONS, run_rows, write_runs

from reports.page.pack_tokens import encode_log, encode_probabilities, pack
from reports.read.sweep import read_sweep


def test_nats_and_exit_probabilities_survive_packing() -> None:
    """Nats do to five per cent, and probabilities to a hundredth; these sum to one."""
    values = np.geomspace(0.001, 63, 500)
    codes = encode_log(values).astype(int)
    assert np.abs(2.0 ** (-10 + (codes - 1) * 16 / 126) / values - 1).max() < 0.046
    assert encode_log(np.array([0.0, 1e-7, 1e9])).tolist() == [0, 0, 127]
    drawn = np.random.default_rng(3).dirichlet([0.2] * 6, 1000)
    probabilities = np.concatenate([drawn, np.eye(6)]).astype(np.float32)
    packed = encode_probabilities(probabilities).astype(int)
    whole = np.concatenate([packed, 100 - packed.sum(axis=1, keepdims=True)], axis=1)
    assert whole.min() >= 0
    assert np.abs(whole / 100 - probabilities).max() < 0.01 + 1e-6
    np.testing.assert_array_equal(whole[-6:], 100 * np.eye(6))


def test_the_core_stays_within_two_bytes_per_token(tmp_path: Path) -> None:
    """The texts' words are as frequent as a language's."""
    draw = np.random.default_rng(0)
    texts = {run: [f" word{n}" for n in draw.zipf(1.5, 400) % 500] for run in product("0123", CONFIGURATIONS)}
    runs = [run_rows(prompt_id, "?", *its, pieces) for (prompt_id, its), pieces in texts.items()]
    sweep = read_sweep(str(write_runs(tmp_path / "s", runs)))
    packed = pack(sweep, sweep.generations, list(sweep.prompts))
    core, kl = (sum(map(len, packed.blobs[kind])) for kind in ("core", "kl"))
    assert core + len(packed.pieces) <= 2 * sum(packed.n)
    assert core + len(packed.pieces) + kl <= 9 * sum(packed.n), "with the KL of each layer"
