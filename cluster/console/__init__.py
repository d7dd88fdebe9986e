"""What commands share: flags and files to a job, progress, logs, tables, and how a command ends."""
