"""Tokens as the page's file has them: all columns come back, in few bytes."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from chart_fields import blob
from synthetic_sweeps import CONFIGURATIONS, LAYERS, run_rows, write_runs

from eexit.plan.configuration import EarlyExit
from reports import build_report
from reports.page.pack_tokens import encode_log, encode_probabilities, pack
from reports.read.sweep import read_sweep


class Packed:
    """Page of a sweep, its data, and its pieces of text."""

    def __init__(self, folder: Path) -> None:
        self.page = build_report(str(folder), folder / "tokens.html").read_text(encoding="utf-8")
        self.data: dict[str, Any] = json.loads(blob(self.page, "payload"))
        self.pieces: list[str] = json.loads(blob(self.page, "pieces"))

    def columns(self, kind: str) -> dict[str, np.ndarray]:
        """Return the columns of a kind of the first prompt, numbers × tokens, from bytes that are stored apart."""
        content, found, start = np.frombuffer(blob(self.page, f"{kind}-0"), np.uint8), {}, 0
        n = sum(run["n"] for run in self.data["prompts"][0]["runs"])
        for name, dtype, width in self.data["kinds"][kind]:
            size = np.dtype(dtype).itemsize
            planes = content[start : start + n * width * size].reshape(size, -1)
            found[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(width, n)
            start += planes.size
        assert start == len(content)
        return found


def test_tokens_and_which_disagree_with_full_depth_come_back_from_the_file(full: Path) -> None:
    packed = Packed(full)
    runs, core = packed.data["prompts"][0]["runs"], packed.columns("core")
    n = [run["n"] for run in runs]
    assert {run["undrawn"] for run in runs} == {1}
    assert (core["exit"][0, n[0] : n[0] + 6] >> 2).tolist() == [len(LAYERS), 1, 2, 3, 4, 0]
    assert [packed.pieces[number] for number in core["piece"][0, n[0] :][:3]] == ["The", " cat", " u2"]
    assert packed.columns("kl")["kl"].shape == (len(LAYERS), sum(n))
    expected = [i > 0 and i % 3 == 0 for length in n for i in range(length)]  # the first is not decided
    assert (core["exit"][0] & 1).tolist() == expected
    assert packed.data["flags"] == {"disagrees": True, "drafted": False}


def test_exit_scores_come_back_from_the_file_once(tmp_path: Path) -> None:
    """Exit scores have three digits, and are NaN where there is none. Scores that are the KL are stored once."""
    own = EarlyExit("unfrozen", "similarity", 0.95)
    seen = [None, [0.9375, -0.25, None, None, None], [0.5, 3.140625, 0.0, 1.0, 70.0]]
    by_kl, by_own = (run_rows("0", "?", "unfrozen", 1.0, ["The", " cat", " sat"], of=of) for of in (None, own))
    scoreless = Packed(write_runs(tmp_path / "t", [by_kl]))
    assert not any(each["score_kind"] for each in scoreless.data["configurations"])
    for its, of_kl, of_own in zip(seen, by_kl[1], by_own[1], strict=True):
        of_kl["exit_score"], of_own["exit_score"] = its and of_kl["kl"], its
    packed = Packed(write_runs(tmp_path / "s", [by_kl, by_own]))
    saw = {each["key"]: each["score_kind"] for each in packed.data["configurations"]}
    assert saw == {"unfrozen/kl/1": "kl", "unfrozen/similarity/0.95": "exit_score"}
    expected = np.array([[np.nan] * 5 if its is None else its for its in seen], dtype=float)
    decoded = packed.columns("exit_score")["scores"].T
    np.testing.assert_array_equal(decoded, np.concatenate([np.full((3, 5), np.nan), expected]))


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


def test_the_likeliest_tokens_are_in_the_file(tmp_path: Path) -> None:
    run = run_rows("0", "?", "unfrozen", 1.0, ["The", " cat", " sat"])
    for token in (run[1][0], run[1][2]):  # nothing was recorded of the other
        ids = [[40 + rank, 7, 8] for rank in range(6)]
        texts = [[f"t{i}" for i in of_rank] for of_rank in ids]
        token |= {"top_token_ids": ids, "top_tokens": texts, "top_prob": [[0.6, 0.2, 0.1]] * 6}
    packed = Packed(write_runs(tmp_path / "s", [run]))
    top = packed.columns("top")
    assert packed.data["top"] == 3
    assert [packed.pieces[number - 1] for number in top["top"][:, 0]] == [text for of_rank in texts for text in of_rank]
    assert (top["top"][:, 1].tolist(), top["top_prob"][0].tolist()) == ([0] * 18, [153, 0, 153])
    # Positions 0 and 2 are token 7, whose text is known now.
    assert packed.pieces[packed.columns("more")["said"][0, 0] - 1] == "t7"


def test_the_core_stays_within_two_bytes_per_token(tmp_path: Path) -> None:
    """The texts' words are as frequent as a language's."""
    draw, runs = np.random.default_rng(0), []
    for n, its in product(range(4), CONFIGURATIONS):
        runs.append(run_rows(f"{n}", "?", *its, [f" word{number}" for number in draw.zipf(1.5, 400) % 500]))
    sweep = read_sweep(str(write_runs(tmp_path / "s", runs)))
    packed = pack(sweep, sweep.generations, list(sweep.prompts))
    core, kl = (sum(map(len, packed.blobs[kind])) for kind in ("core", "kl"))
    assert core + len(packed.pieces) <= 2 * sum(packed.n)
    assert core + len(packed.pieces) + kl <= 9 * sum(packed.n), "with the KL of each layer"
