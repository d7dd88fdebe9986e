"""`python jobs/bench`: the engine's speed on this machine. `--help` lists its flags."""

import sys

from engine_speed import main

if __name__ == "__main__":
    sys.exit(main())
