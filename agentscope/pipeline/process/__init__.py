"""The process that the pipeline lives in: threads, clocks, forks and the exit."""
