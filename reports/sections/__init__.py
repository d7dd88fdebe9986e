"""Sections of the overview. Each is a module with its data, its chart and its words; `overview` puts them together."""
