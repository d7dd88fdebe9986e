"""A driver in a process of its own, to be killed: python drive_script.py FOLDER OUT."""

import sys
from pathlib import Path

import ray
from scripted import sweep_of
from test_driver import drive


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    drive(sweep_of(folder, *["sleep 0.05"] * 8), out)


if __name__ == "__main__":
    main()
