"""Output of commands: text of numbers, URIs without secrets, logs, progress, the style of tables and atomic writes."""
