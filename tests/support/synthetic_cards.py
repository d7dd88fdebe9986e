"""Cards of learned exits, as in the sweep.json of a sweep that uses them."""

import json
from pathlib import Path
from typing import Any

from synthetic_sweeps import FINAL, LAYERS, write_manifest

DIGESTS = {"readout": "1" * 64, "gate": "2" * 64, "adapter": "3" * 64}
PLACES = {"readout": "exits/linear", "gate": "exits/gate", "adapter": "exits/student"}
LENS = {5: 0.040, 10: 0.068, 15: 0.111, 20: 0.267, 25: 0.455}
LINEAR = {5: 0.287, 10: 0.309, 15: 0.345, 20: 0.481, 25: 0.716}
THRESHOLDS = (0.1, 0.5)


def card(what: str, *holds: str, **change: Any) -> dict[str, Any]:
    """Return a card without a table."""
    about = {
        "format": 3, "what": what, "holds": list(holds), "layers": LAYERS, "readout": "lens", "adapter": None,
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "n_layers": FINAL + 1, "dtype": "float32"},
        "data": {"sweep": "results/texts", "n_prompts": 72, "n_tokens": 9294, "n_held_out_prompts": 18,
                 "n_held_out_tokens": 2411},
        "settings": {"what": what, "layers": LAYERS}, "table": [],
        "versions": {"torch": "2.9.0", "eexit": "0.1.0"}, "made": "2026-01-02T03:04:05+00:00", "seconds": 92.5,
        "files": {"weights.safetensors": "0" * 64}, "checksum": "",
    }  # fmt: skip
    return about | change


def row(layer: int, series: str, **shares: float | None) -> dict[str, Any]:
    return {"layer": layer, "series": series, "at": None, "n": 1990, "taken": None, "kept": None, "agreement": None,
            **shares}  # fmt: skip


def linear() -> dict[str, Any]:
    """Return the card of a readout that is better than the lens at every layer."""
    both = (("lens", LENS), ("linear", LINEAR))
    table = [row(layer, name, agreement=share) for name, shares in both for layer, share in shares.items()]
    return card("linear", "readout", table=table)


def gate() -> dict[str, Any]:
    """Return the card of a gate that keeps fewer exits with a higher threshold."""
    table = [
        row(layer, "confidence/0.97", at=at, taken=0.4 - at / 2, kept=1 - at if layer > 5 else None)
        for layer in LAYERS
        for at in THRESHOLDS
    ]
    return card("gate", "gate", table=table, settings={"rules": ["confidence/0.97"]})


def with_cards(folder: Path, **cards: dict[str, Any]) -> Path:
    """Add these artefacts in these roles to the sweep in the folder."""
    about = json.loads((folder / "sweep.json").read_text())
    about["config"] |= {role: PLACES[role] for role in cards} | {"digests": {role: DIGESTS[role] for role in cards}}
    write_manifest(folder, about | {"learned": cards})
    return folder
