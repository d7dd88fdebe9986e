"""What commands share: flags and files to a job, progress, signals, logs, tables, and how a command ends."""
