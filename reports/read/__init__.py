"""Results to data frames, undamaged files only; what later steps read of a sweep and of studies of it."""
