"""Taking a setting of a sweep home: a folder that needs nothing else, and that `eexit.load` makes a callable of."""
