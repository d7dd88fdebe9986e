"""Sweeps that are generated and landed here, without Ray."""

from functools import cache
from pathlib import Path

from driving import look_here

from eexit.generator import ModelGenerator
from eexit.plan.config import SweepConfig
from eexit.plan.runs import plan_runs
from eexit.results.layout import MANIFEST, encode
from eexit.results.shard_tables import error_results
from eexit.results.store.folder import open_store
from eexit.results.store.landing import land
from eexit.results.store.manifest import make_manifest


def land_all(out: Path, config: SweepConfig, leave_out: int = 0) -> None:
    store, runs = open_store(out), list(plan_runs(config))[leave_out:]
    model, layers, _ = look_here(config, 1)
    store.publish(MANIFEST, encode(make_manifest(config, model, layers)))
    generator = cache(lambda: ModelGenerator(config, "cpu"))
    for prompt in config.prompts:
        its = [run for run in runs if run.prompt.id == prompt.id]
        land(store, its, error_results(its, config, "no") if prompt.id == "failed" else generator().generate(its))
