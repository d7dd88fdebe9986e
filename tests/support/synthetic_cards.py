"""Cards of learned exits, as a sweep that uses them holds them in sweep.json."""

import json
import math
from pathlib import Path
from typing import Any

from synthetic_sweeps import FINAL, LAYERS, write_manifest

DIGESTS = {"readout": "1" * 64, "probe": "2" * 64, "adapter": "3" * 64}
PLACES = {"readout": "exits/linear", "probe": "exits/probe", "adapter": "exits/student"}
LENS = {5: (0.040, 14.2), 10: (0.068, 17.6), 15: (0.111, 16.9), 20: (0.267, 11.6), 25: (0.455, 3.63)}
LINEAR = {5: (0.287, 2.65), 10: (0.309, 2.34), 15: (0.345, 1.93), 20: (0.481, 1.15), 25: (0.716, 0.34)}
FACTORS = (0.5, 1.0, 2.0, 4.0)


def card(what: str, *holds: str, **change: Any) -> dict[str, Any]:
    """A card without tables."""
    about = {
        "format": 1, "what": what, "holds": list(holds), "layers": LAYERS, "readout": "lens",
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "n_layers": FINAL + 1, "dtype": "float32"},
        "data": {"sweep": "results/texts", "n_prompts": 72, "n_tokens": 9294, "n_held_out_prompts": 18,
                 "n_held_out_tokens": 2411},
        "settings": {"what": what, "layers": LAYERS, "ridge": 0.01, "seed": 0, "steps": None,
                     "lora_targets": ["q_proj", "v_proj"]},
        "held_out": [], "trade_off": [], "probes": [], "calibration": [], "exits": [],
        "progress": [{"step": 1, "tokens": 192, "seconds": 1.0, "loss": 3.1, "held_out_loss": 3.2},
                     {"step": 150, "tokens": 28800, "seconds": 90.0, "loss": 1.2, "held_out_loss": None}],
        "versions": {"torch": "2.9.0", "eexit": "0.1.0"}, "made": "2026-01-02T03:04:05+00:00", "seconds": 92.5,
        "files": {"weights.safetensors": "0" * 64},
    }  # fmt: skip
    return about | change


def linear() -> dict[str, Any]:
    """A readout that is better than the lens everywhere, and its trade-off."""
    held_out = [
        {"layer": layer, "readout": name, "agreement": agreement, "median_kl": kl, "mean_kl": 1.2 * kl}
        for name, rows in (("lens", LENS), ("linear", LINEAR))
        for layer, (agreement, kl) in rows.items()
    ]
    trade = [
        {"readout": name, "kl_factor": k, "mean_depth": 1 - skipped / k**0.7, "exit_rate": 2 * skipped / k**0.7,
         "agreement": 1 - off / k, "expected_kl": 0.9 * off / k, "control_agreement": 1 - 3 * off / k**0.6,
         "control_kl": 4 * off / k**0.6}
        for name, skipped, off in (("lens", 0.09, 0.05), ("linear", 0.2, 0.08)) for k in FACTORS
    ]  # fmt: skip
    return card("linear", "readout", held_out=held_out, trade_off=trade)


def probe(readout: str = DIGESTS["readout"]) -> dict[str, Any]:
    """A probe of the KLs of a readout, by default those of `linear`."""
    ranks = {5: (0.61, 0.65), 10: (0.68, 0.71), 15: (0.66, 0.71), 20: (0.77, 0.81), 25: (0.78, 0.76)}
    probes = [
        {"layer": layer, "kind": "mlp" if mlp > flat else "linear", "rank_correlation": max(flat, mlp),
         "rank_correlation_linear": flat, "rank_correlation_mlp": mlp}
        for layer, (flat, mlp) in ranks.items()
    ]  # fmt: skip
    calibration = [
        {"layer": layer, "kl_factor": k, "bin": number, "n": int(900 * math.exp(-number / (1 + layer / 8))),
         "predicted": (number + 0.5) / 10, "true": min(1, ((number + 0.5) / 10) ** (1.6 - layer / 30))}
        for layer in LAYERS for k in FACTORS for number in range(10)
    ]  # fmt: skip
    trade = [
        {"readout": readout, "rule": rule, "kl_factor": k, "mean_depth": 1 - skipped / k**0.7,
         "exit_rate": 2 * skipped / k**0.7, "agreement": 1 - off / k, "expected_kl": 0.9 * off / k,
         "control_agreement": 1 - 3 * off / k**0.6, "control_kl": 4 * off / k**0.6}
        for rule, skipped, off in (("kl", 0.2, 0.08), ("predicted_kl", 0.18, 0.11)) for k in FACTORS
    ]  # fmt: skip
    return card("probe", "probe", readout=readout, probes=probes, calibration=calibration, trade_off=trade)


def student() -> dict[str, Any]:
    """A student that training brings nearer to the base model at all layers but the first."""
    exits = [
        {"kl_factor": k, "when": when, "layer": layer, "n": 400 if layer is None else 80,
         "mean_kl": 1.5 / k * gain, "median_kl": 0.4 / k * gain, "agreement": 1 - 0.3 / k * gain}
        for k in (0.5, 1.0, 2.0)
        for layer in [None, *LAYERS, FINAL]
        for when, gain in (("before", 1.0), ("after", 1.1 if layer == LAYERS[0] else 0.7))
    ]  # fmt: skip
    return card("student", "adapter", "probe", exits=exits)


def with_cards(folder: Path, **cards: dict[str, Any]) -> Path:
    """The sweep in the folder, as one that uses these artefacts in these roles."""
    about = json.loads((folder / "sweep.json").read_text())
    about["config"] |= {role: PLACES[role] for role in cards} | {"digests": {role: DIGESTS[role] for role in cards}}
    write_manifest(folder, about | {"learned": cards})
    return folder
