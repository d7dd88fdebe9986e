"""Summaries of a sweep's results without a report: closing table, certainty by depth, and the first texts in colour."""
