"""Everything Ray: what to run where, the actors that hold a generator, the driver that feeds them, what they land."""

import os

# A Ray of one machine listens on loopback alone. Ray reads this when it is imported, and has no argument for it; the
# name is of the systems where it does so anyway.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
