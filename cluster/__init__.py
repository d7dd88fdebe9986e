"""Everything that uses Ray: planning actors, the actors, the driver that feeds them, and landing their results."""

import os

# Has a Ray of one machine listen on loopback only, as it always does on the systems in the variable's name. Ray reads
# the variable when it is imported, and has no argument for it.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
