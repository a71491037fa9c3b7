"""A cluster on paper: the scheduler's own SQL over a simulated fleet, workload and clock. See docs/scale.md."""
