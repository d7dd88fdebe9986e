"""Everything Ray: what to run where, the actors that hold a generator, the driver that feeds them, what they land."""
