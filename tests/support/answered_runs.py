"""Runs of full depth, a setting and an oracle, with answers and costs, whose means a test takes with pandas again."""

from random import Random
from typing import Any

from eexit.plan.splits import kinds, sampling_units

KEY, ORACLE = "skip/confidence/0.9", "skip/kl/1"
# Two kinds by their ids; one by its name, two prompts of which are a group; and one prompt of no kind.
PROMPTS: list[dict[str, Any]] = [
    *({"id": f"sum-{number}", "prompt": f"{number}?"} for number in range(8)),
    *({"id": f"fact-{number}", "prompt": f"fact {number}"} for number in range(6)),
    *({"id": f"{number}", "prompt": f"other {number}", "kind": "odd", "group": number // 2} for number in range(14)),
    {"id": "x", "prompt": "of no kind"},
]
KIND_OF, UNIT_OF = kinds(PROMPTS), sampling_units(PROMPTS)


def runs() -> list[dict[str, Any]]:
    """Return runs of two seeds; some failed, some chains never closed, and facts have no answers."""
    random = Random(7)
    return [
        {
            "prompt_id": prompt["id"], "configuration": key, "seed": seed,
            "status": "error" if random.random() < 0.1 else "ok",
            "finish_reason": ("eos", "length")[(sum(map(ord, prompt["id"])) + seed) % 2],
            "correct": None if prompt["id"].startswith("fact") else random.random() < (0.8 if key == "normal" else 0.6),
            "thinking_closed": random.random() < 0.9, "disagreement": random.random() if key == KEY else 0.0,
            "mean_depth": (sum(map(ord, prompt["id"])) % 7 + seed) / 10, "macs_full": 150.0 + 100 * random.random(),
            "macs_executed": None if key == ORACLE else 90.0 + 100 * random.random(),
            "macs_required": 60.0 + 100 * random.random(), "n_tokens": random.randrange(10, 90),
            "prompt_exits": None, "macs_prompt": None,
        }
        for prompt in PROMPTS for seed in (0, 1) for key in ("normal", KEY, ORACLE)
    ]  # fmt: skip
