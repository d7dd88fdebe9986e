"""Everything that uses Ray: the actors, their placement, the driver that feeds them, and the sweep's commits."""

import os

# Makes a single-machine Ray listen on loopback only, as it always does on the systems in the variable's name. Ray reads
# the variable on import, and has no argument for it.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
