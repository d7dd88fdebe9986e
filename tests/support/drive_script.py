"""A driver in a process that a test can kill: `python drive_script.py FOLDER OUT N` sweeps N slow prompts."""

import sys
from pathlib import Path

import ray
from driving import drive
from scripted import sweep_of


def main() -> None:
    folder, out = map(Path, sys.argv[1:3])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    drive(sweep_of(folder, *["sleep 0.05"] * int(sys.argv[3])), out)


if __name__ == "__main__":
    main()
