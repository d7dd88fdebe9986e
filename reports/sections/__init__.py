"""The parts of the overview: charts, tables and what they say."""
