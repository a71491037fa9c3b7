"""Runs the scheduler's own SQL with a simulated fleet, workload and clock, and writes docs/scale.md."""
