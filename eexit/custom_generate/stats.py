"""What a setting has done since it was loaded, as counters that Prometheus could collect."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from eexit.decode.trace import Trace

_COSTS = ("cost_full", "cost_needed", "cost_run")
_counting = Lock()  # of all of them, since an object that has a lock can't be copied or pickled


class Stats:
    """Adds up what rows generated and cost. It may be used by several threads."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._totals: Counter[str] = Counter()
        self._exits: Counter[int] = Counter()

    def add(self, trace: Trace, costs: Mapping[str, float | int | None]) -> None:
        """Count a row, with what it cost (`eexit.decode.costs.counting.cost_columns`)."""
        decided = trace.exit_layer_T[1:]
        with _counting:
            self._exits.update(decided.tolist())
            self._totals["rows"] += 1
            self._totals["tokens"] += len(trace.token_id_T)
            self._totals["decided_tokens"] += len(decided)
            self._totals["layers_run"] += int(costs["layers_run"] or 0)
            self._totals["layers_of_full_depth"] += self._n_layers * len(decided)
            self._totals["drafted_tokens"] += int(trace.drafted_T.sum())
            self._totals.update({name: int(costs[name] or 0) for name in _COSTS})

    def read(self) -> dict[str, float]:
        """Each total by its name, and exits by layer; layers and multiply-adds are those of decided tokens.

        `eexit_saved_ratio` is 1 − cost_run / cost_full: what was saved of full depth's multiply-adds.
        """
        with _counting:
            totals, exits = Counter(self._totals), Counter(self._exits)
        names = ("rows", "tokens", "decided_tokens", "drafted_tokens", "layers_run", "layers_of_full_depth", *_COSTS)
        full = totals["cost_full"]
        return {
            **{f"eexit_{name}_total": float(totals[name]) for name in names},
            **{f'eexit_exits_total{{layer="{layer}"}}': float(n) for layer, n in sorted(exits.items())},
            "eexit_saved_ratio": 1 - totals["cost_run"] / full if full else 0.0,
        }
