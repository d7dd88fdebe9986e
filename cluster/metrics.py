"""An actor's metrics for Prometheus, on its node's metrics endpoint (where names begin with `ray_`)."""

from ray.util.metrics import Counter, Gauge, Histogram

BUCKET_SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class Metrics:
    """Counts since the actor started, and the current rows in flight."""

    def __init__(self) -> None:
        self.runs = Counter("eexit_runs", "runs landed, errors included")
        self.errors = Counter("eexit_errors", "runs landed as errors")
        self.tokens = Counter("eexit_tokens", "tokens generated, whether they landed or not")
        self.shard_seconds = Histogram(
            "eexit_shard_seconds", "seconds from a shard's start to its landing", BUCKET_SECONDS
        )
        self.rows_in_flight = Gauge("eexit_rows_in_flight", "runs of the shard at hand")
