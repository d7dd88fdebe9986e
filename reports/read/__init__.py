"""Results → data frames, undamaged files only: sweeps, results of the original format, timings and judgements."""
